"""The audit log: events, their coalescing, and reading them."""
