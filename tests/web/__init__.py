"""Tests of the HTTP host."""
