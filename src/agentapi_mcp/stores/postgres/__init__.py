"""Postgres stores, the source of truth; Postgres 15 or newer."""
