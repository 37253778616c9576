"""The chat of the terminal: one message, or a conversation."""
