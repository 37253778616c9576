"""Backends of agents: one module per kind in `kinds`, shared protocol code in `wire`."""
