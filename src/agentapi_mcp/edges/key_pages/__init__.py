"""The web pages where users enter an API key, and see, connect and disconnect their accounts."""
