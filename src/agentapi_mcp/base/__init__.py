"""Helpers that know nothing of this program; imports nothing else of it."""
