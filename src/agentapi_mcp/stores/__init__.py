"""Where things are kept: Postgres is the truth, the rest is fast and forgettable."""
