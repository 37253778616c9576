"""Tests of `stores/postgres`."""
