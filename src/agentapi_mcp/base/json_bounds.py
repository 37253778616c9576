"""Bounds on untrusted JSON, checked before it is parsed: by its size alone, parsing could take seconds."""

from dataclasses import dataclass

_IN_NUMBERS = b"0123456789.eE+-"
# What the scan drops, outside of strings and within them, once escaped quotes are gone; numbers stay apart by commas.
_NOISE = bytes(sorted(set(range(256)) - set(b'"[]{},' + _IN_NUMBERS)))
# All that opens, closes or belongs to a number is one character each.
_TOKENS = bytes.maketrans(b"{}" + _IN_NUMBERS, b"[]" + b"0" * len(_IN_NUMBERS))
_DIGITS_ALONE = bytes(ord("0") if character in _IN_NUMBERS else ord(" ") for character in range(256))
_OPENS = b"["[0]


class JsonBoundsError(ValueError):
    """A document exceeds a bound; the message, without a subject, says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonBounds:
    """The most containers (arrays and objects), values and nesting of one document, and characters of one number.

    Each container costs Python some 100 bytes and a visit of the garbage collector: 4 MB of empty arrays took two
    seconds, and a text of the same size a hundredth of it. A long integer costs the square of its length. What stands
    within strings counts for nothing.
    """

    containers: int = 20_000
    values: int = 20_000
    depth: int = 64
    number: int = 100

    def check(self, document: bytes | bytearray | str) -> None:
        """Scan a document, which need not be valid.

        Raises:
            JsonBoundsError: it exceeds a bound.
        """
        raw = _bytes_of(document)
        if not self._may_exceed(raw):
            return
        outside = self._outside_of_strings(raw)
        # What closes more than was opened is not valid, and must not be walked through either.
        if max(outside.count(b"["), outside.count(b"]")) > self.containers:
            raise JsonBoundsError(f"has more than {self.containers:,} arrays and objects")
        if outside.count(b",") > self.values:
            raise self._too_many_values()
        if self._too_long in outside:
            raise JsonBoundsError(f"has a number of more than {self.number:,} characters")
        depth = 0
        for bracket in outside.translate(None, b",0"):
            depth += 1 if bracket == _OPENS else -1
            if depth > self.depth:
                raise JsonBoundsError(f"is nested more than {self.depth} deep")

    @property
    def _too_long(self) -> bytes:
        return b"0" * (self.number + 1)

    def _may_exceed(self, document: bytes | bytearray) -> bool:
        """Count what is cheap to count, strings included."""
        return (
            document.count(b"[") + document.count(b"{") > self.depth
            or document.count(b",") > self.values
            or self._too_long in document.translate(_DIGITS_ALONE)
        )

    def _outside_of_strings(self, document: bytes | bytearray) -> bytes:
        # Every run of backslashes begins outside of an escape, so that pairs from the left are escaped backslashes.
        unescaped = document.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in document else document
        tokens = unescaped.translate(_TOKENS, _NOISE)
        if tokens.count(b'"') > 2 * self.values:  # the split would make as many objects as the parser
            raise self._too_many_values()
        return b"".join(tokens.split(b'"')[::2])

    def _too_many_values(self) -> JsonBoundsError:
        return JsonBoundsError(f"has more than {self.values:,} values")


BOUNDS = JsonBounds()


def _bytes_of(document: bytes | bytearray | str) -> bytes | bytearray:
    return document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
