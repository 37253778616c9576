"""A bound on the lines of a client, before they are kept whole."""

# The longest message and system prompt fit, even if each of their bytes is written as an escape of six.
LONGEST_LINE = 8_388_608
_TAIL = 200  # where many clients write the id


class LineBound:
    """Cuts the lines of a stream that are longer than a bound.

    The first bytes of a long line, one more than the bound, and the last few are kept: whoever reads it sees that it is
    too long, and whose request it was.
    """

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._most = longest + 1
        self._length = 0  # of the line that has begun, as far as it was passed on
        self._tail: bytes | None = None  # of one that is cut

    def passed(self, chunk: bytes) -> bytes:
        """Return what of the next bytes is passed on."""
        if self._tail is None and self._length + len(chunk) <= self._most:
            end = chunk.rfind(b"\n") + 1
            self._length = len(chunk) - end if end else self._length + len(chunk)
            return chunk
        *lines, rest = chunk.split(b"\n")
        parts: list[bytes] = []
        for line in lines:
            parts += (self._begin(line), self._end(), b"\n")
        parts.append(self._begin(rest))
        return b"".join(parts)

    def _begin(self, piece: bytes) -> bytes:
        """Return what is passed on of a piece of the line, whose end has not come."""
        kept = piece[: self._most - self._length]
        self._length += len(kept)
        if len(kept) < len(piece):
            self._tail = ((self._tail or b"") + piece[len(kept) :])[-_TAIL:]
        return kept

    def _end(self) -> bytes:
        tail, self._tail, self._length = self._tail or b"", None, 0
        return tail


def is_too_long(line: str, longest: int = LONGEST_LINE) -> bool:
    """Whether a line exceeds the bound in bytes."""
    return len(line) * 4 > longest and len(line.encode("utf-8", "surrogatepass")) > longest
