"""The body of a request."""


class Body:
    """The body of a request, which is let go when it is sent: the answer may take minutes."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def take(self) -> bytes:
        """Hand over the content."""
        content, self._content = self._content, b""
        return content
