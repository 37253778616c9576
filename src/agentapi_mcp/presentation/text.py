"""Text for output: valid Unicode, within the length that clients accept."""

MAX_REPLY_BYTES = 80_000  # about 20k tokens, at four bytes each

_MAX_SHOWN = 60


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def shown(text: str) -> str:
    """Shorten a caller's text to quote it in a message."""
    whole = clean(text)
    return whole if len(whole) <= _MAX_SHOWN else whole[: _MAX_SHOWN - 1] + "…"


def cut(text: str, max_bytes: int = MAX_REPLY_BYTES) -> tuple[str, int]:
    """Truncate the text at a whole character, and return it with the number of bytes cut off."""
    if text.isascii() and len(text) <= max_bytes:
        return text, 0
    raw = clean(text).encode()
    if len(raw) <= max_bytes:
        return raw.decode(), 0
    start = raw[:max_bytes].decode("utf-8", "ignore")
    return start, len(raw) - len(start.encode())
