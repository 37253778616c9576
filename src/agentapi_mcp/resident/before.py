"""What a bridge answers while the first server is not there yet: what is the same for everybody (`Front`)."""

from _thread import allocate_lock

# So long a server that was there may take to say that it reads; one that is being started takes longer anyway.
_PATIENCE = 0.02
_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}'


class AnswersBefore:
    """The answers of one client, until `end`."""

    def __init__(self, toolsets: str, prefix: str) -> None:
        self._toolsets = toolsets or None
        self._prefix = prefix or None
        self._front = None
        self._has_begun = False
        self._is_over = False
        self._owes_change = False
        self._waiting = allocate_lock()
        self._waiting.acquire()
        # Held while a line is answered, so that the server's first word does not come in between.
        self.gate = allocate_lock()

    def wait(self, *, at_once: bool) -> None:
        """Before the first answer, wait a moment for the server to come."""
        if not self._has_begun:
            self._has_begun = True
            if not at_once and self._waiting.acquire(timeout=_PATIENCE):
                return
            self._front = _load(self._toolsets, self._prefix)

    def answer(self, line: bytes):  # noqa: ANN201  # `Answer | None`, whose module is imported by `_load` alone
        """Answer a line; None if the server must. The gate is held."""
        if self._front is None or self._is_over:
            return None
        answer = self._front.answer(line)
        self._owes_change = self._owes_change or (answer is not None and answer.changed)
        return answer

    def end(self) -> list[bytes]:
        """Answer nothing any more, and return what is owed to the client."""
        if self._waiting.locked():
            self._waiting.release()
        with self.gate:
            self._is_over = True
            return [_CHANGED] if self._owes_change else []


def _load(toolsets: str | None, prefix: str | None):  # noqa: ANN202  # `Front | None`
    # Where the server is there, nobody waits for the 9 ms that this takes.
    from agentapi_mcp.edges.mcp.front.answers import Front  # noqa: PLC0415  # as above

    return Front.load(toolsets, prefix)
