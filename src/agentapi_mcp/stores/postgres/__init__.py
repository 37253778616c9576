"""The truth: catalogue, sessions, turns, messages, in Postgres 15 or newer."""
