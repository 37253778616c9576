"""Tests of `stores/local`."""
