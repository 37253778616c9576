"""Peers: tiny servers that talk like the agents that backends reach, one module per kind."""
