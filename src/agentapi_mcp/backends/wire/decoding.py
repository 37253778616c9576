"""Decompression of replies piece by piece, so that a small one cannot expand without limit."""

import zlib
from collections.abc import Callable, Iterable, Iterator

from agentapi_mcp.base.errors import BackendError, BackendFault

_PIECE = 64 * 1024  # bytes
_MOST_CODINGS = 5
_HEADER = 2  # bytes by which a format is known
_RAW, _ZLIB, _GZIP = -zlib.MAX_WBITS, zlib.MAX_WBITS, zlib.MAX_WBITS + 16

Decode = Callable[[bytes], Iterator[bytes]]


def decoder_of(content_encoding: str) -> Decode | None:
    """Return what decompresses a body as it comes, None for one that is not compressed.

    Codings that were not asked for are left as they are.

    Raises:
        BackendError: BAD_REPLY, also later, while decompressing.
    """
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    steps = [_Inflation(*_FORMATS[coding]) for coding in reversed(codings) if coding in _FORMATS]
    if len(steps) > _MOST_CODINGS:
        raise _undone()

    def decode(data: bytes) -> Iterator[bytes]:
        pieces: Iterator[bytes] = iter((data,))
        for step in steps:
            pieces = step.pieces(pieces)
        try:
            yield from pieces
        except zlib.error as error:
            raise _undone() from error

    return decode if steps else None


# The format of each coding, and another that some servers send by its name.
_FORMATS: dict[str, tuple[int, ...]] = {"gzip": (_GZIP,), "deflate": (_ZLIB, _RAW)}


class _Inflation:
    """One decompression, of which the bytes come bit by bit."""

    def __init__(self, *formats: int) -> None:
        self._stream, *self._others = (zlib.decompressobj(bits) for bits in formats)
        self._header = b""

    def pieces(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            if self._stream.eof:  # what follows would be kept by it, and counted by nobody
                return
            piece = self._begun(part)
            while piece:
                yield piece
                piece = self._stream.decompress(self._stream.unconsumed_tail, _PIECE)

    def _begun(self, part: bytes) -> bytes:
        if not self._others:
            return self._stream.decompress(part, _PIECE)
        self._header += part
        if len(self._header) < _HEADER:
            return b""
        (other,), self._others = self._others, []
        try:
            return self._stream.decompress(self._header, _PIECE)
        except zlib.error:
            self._stream = other
            return self._stream.decompress(self._header, _PIECE)


def _undone() -> BackendError:
    return BackendError(BackendFault.BAD_REPLY, "The provider's reply could not be decompressed.")
