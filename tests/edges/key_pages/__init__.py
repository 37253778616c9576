"""Tests of the pages."""  # it mirrors the package that it tests
