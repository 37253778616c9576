"""What one process keeps for itself, and the operator's files on its disk."""
