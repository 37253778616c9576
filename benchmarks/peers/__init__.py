"""Other servers that stand before the same provider, measured beside ours."""
