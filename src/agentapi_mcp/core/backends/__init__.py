"""The contract of a backend: turns, events and capabilities."""
