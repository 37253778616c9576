"""The resident server: one process for all clients over stdio of a home, behind a bridge that each of them starts."""
