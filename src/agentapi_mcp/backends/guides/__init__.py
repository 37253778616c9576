"""Port through which the guide reads the server's live state."""
