"""Text for output: valid Unicode, within the length that clients accept."""

from agentapi_mcp.presentation.tokens import fitting

# Claude Code takes 25,000 tokens, and counts the JSON of all fields. The estimate may be a fifth too low.
MAX_REPLY_TOKENS = 20_000
MAX_REPLY_BYTES = 80_000  # of what has few tokens, such as a drawing of blanks

_MAX_SHOWN = 60


def clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def shown(text: str) -> str:
    """Shorten a caller's text to quote it in a message."""
    whole = clean(text)
    return whole if len(whole) <= _MAX_SHOWN else whole[: _MAX_SHOWN - 1] + "…"


def cut(text: str) -> tuple[str, int]:
    """Truncate a reply to what clients take, and return it with the number of bytes cut off."""
    whole = clean(text)
    size = len(whole) if whole.isascii() else len(whole.encode())
    if size <= MAX_REPLY_TOKENS:  # a token is at least a byte
        return whole, 0
    start = whole[:MAX_REPLY_BYTES].encode()[:MAX_REPLY_BYTES].decode("utf-8", "ignore")
    start = start[: fitting(start, MAX_REPLY_TOKENS)]
    return start, size - len(start.encode())
