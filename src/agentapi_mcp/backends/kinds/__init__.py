"""The backends: one module each, whose name is the backend's name; nothing else stands here."""
