"""Bounds on untrusted JSON, checked before it is parsed: by its size alone, parsing could take seconds."""

from dataclasses import dataclass

# What the scan drops, outside of strings and within them, once escaped quotes are gone.
_NOISE = bytes(sorted(set(range(256)) - set(b'"[]{},')))
_ARRAYS_ALONE = bytes.maketrans(b"{}", b"[]")
_OPENS = b"["[0]


class JsonBoundsError(ValueError):
    """A document exceeds a bound; the message, without a subject, says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonBounds:
    """The most containers (arrays and objects), values and nesting of one document.

    Each container costs Python some 100 bytes and a visit of the garbage collector: 4 MB of empty arrays took two
    seconds, and a text of the same size a hundredth of it. What stands within strings counts for nothing.
    """

    containers: int = 20_000
    values: int = 100_000
    depth: int = 64

    def check(self, document: bytes | bytearray | str) -> None:
        """Scan a document, which need not be valid.

        Raises:
            JsonBoundsError: it exceeds a bound.
        """
        if not self._may_exceed(document):
            return
        outside = self._outside_of_strings(_bytes_of(document))
        # What closes more than was opened is not valid, and must not be walked through either.
        if max(outside.count(b"["), outside.count(b"]")) > self.containers:
            raise JsonBoundsError(f"has more than {self.containers:,} arrays and objects")
        if outside.count(b",") > self.values:
            raise self._too_many_values()
        depth = 0
        for bracket in outside.translate(None, b","):
            depth += 1 if bracket == _OPENS else -1
            if depth > self.depth:
                raise JsonBoundsError(f"is nested more than {self.depth} deep")

    def _may_exceed(self, document: bytes | bytearray | str) -> bool:
        """Count what is cheap to count, strings included."""
        if isinstance(document, str):
            return document.count("[") + document.count("{") > self.depth or document.count(",") > self.values
        return document.count(b"[") + document.count(b"{") > self.depth or document.count(b",") > self.values

    def _outside_of_strings(self, document: bytes | bytearray) -> bytes:
        # Every run of backslashes begins outside of an escape, so that pairs from the left are escaped backslashes.
        unescaped = document.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in document else document
        tokens = unescaped.translate(_ARRAYS_ALONE, _NOISE)
        if tokens.count(b'"') > 2 * self.values:  # the split would make as many objects as the parser
            raise self._too_many_values()
        return b"".join(tokens.split(b'"')[::2])

    def _too_many_values(self) -> JsonBoundsError:
        return JsonBoundsError(f"has more than {self.values:,} values")


BOUNDS = JsonBounds()


def _bytes_of(document: bytes | bytearray | str) -> bytes | bytearray:
    return document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
