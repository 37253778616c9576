"""The ASGI host: the middleware that every HTTP request passes before it reaches an edge. Imports no edge."""
