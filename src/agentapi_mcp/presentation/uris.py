"""URIs of resources."""

from urllib.parse import quote

from agentapi_mcp.base.ids import SessionId

_ROOT = "agentapi://chat/sessions"


def sessions_uri(cursor: str) -> str:
    """Return the URI of a page of the list of sessions."""
    return f"{_ROOT}?cursor={quote(cursor, safe='')}"


def transcript_uri(session_id: SessionId, *, json: bool = False, cursor: str | None = None) -> str:
    """Return the URI of a session's transcript."""
    uri = f"{_ROOT}/{session_id}/transcript{'.json' if json else ''}"
    return uri if cursor is None else f"{uri}?cursor={quote(cursor, safe='')}"
