"""The doctor: checks of every part of an installation."""
