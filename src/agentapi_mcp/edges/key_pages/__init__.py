"""The web page where a user enters an API key."""
