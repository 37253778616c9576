"""The ASGI host: what every HTTP request passes before an edge sees it. Knows no edge; `app` mounts them."""
