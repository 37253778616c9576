"""Periodic work: each job once per interval over all processes of a database."""
