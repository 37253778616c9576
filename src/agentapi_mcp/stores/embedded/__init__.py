"""The embedded Postgres: our own launcher over the binaries of a wheel."""
