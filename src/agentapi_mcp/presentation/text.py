"""Texts on their way out: whole Unicode, and no longer than a client takes."""

MAX_REPLY_BYTES = 80_000  # about 20k tokens, at four bytes each

_MAX_SHOWN = 60


def clean(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON over a pipe cannot carry."""
    return text.encode("utf-8", "replace").decode()


def shown(text: str) -> str:
    """Shorten what a caller wrote, to be quoted back."""
    whole = clean(text)
    return whole if len(whole) <= _MAX_SHOWN else whole[: _MAX_SHOWN - 1] + "…"


def cut(text: str, max_bytes: int = MAX_REPLY_BYTES) -> tuple[str, int]:
    """Return the text cut at a whole character, and how many bytes were left out."""
    raw = clean(text).encode()
    if len(raw) <= max_bytes:
        return raw.decode(), 0
    kept = raw[:max_bytes].decode("utf-8", "ignore")
    return kept, len(raw) - len(kept.encode())
