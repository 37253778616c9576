"""Whole programs as real processes."""
