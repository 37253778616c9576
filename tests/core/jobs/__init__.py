"""Tests of periodic work."""
