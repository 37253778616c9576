"""The resident server: places, bridges, and what becomes of clients and turns."""
