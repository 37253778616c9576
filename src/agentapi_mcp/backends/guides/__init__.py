"""What the guide answers from: the shipped documentation, its index, and the server's live state."""
