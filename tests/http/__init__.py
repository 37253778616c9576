"""Tests of the pages."""  # noqa: A005  # it mirrors the package that it tests
