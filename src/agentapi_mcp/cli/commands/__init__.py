"""The commands: each module here is one, or a group of them, and has its name."""
