"""Tests of the composition of the program."""
