"""Tests of what every other package builds on."""
