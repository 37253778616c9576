"""In-process stores, and the operator's files on disk."""
