"""Tests of what backends share of the wire."""
