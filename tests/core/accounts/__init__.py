"""Tests of connected accounts."""
