"""The address that a client of SSE is told to post to, as it has to be from outside."""

import re
from urllib.parse import urlencode, urlsplit

from starlette.types import Message, Scope, Send

from agentapi_mcp.base.origins import Authority
from agentapi_mcp.edges.mcp.tools.chosen_toolsets import TOOLSETS, toolsets_in
from agentapi_mcp.web.oauth import OAuth
from agentapi_mcp.web.requests import head_of

MESSAGES = "/messages/"
_TOLD = f"{MESSAGES}?".encode()
_PREFIX = re.compile(r"(?:/[\w.~-]{1,100}){1,20}", re.ASCII)
_EDGE = "/mcp"


def prefix_of(scope: Scope, oauth: OAuth | None) -> str:
    """Return what a proxy has taken off the path of a request, as far as that is known; otherwise nothing.

    A proxy may say so, and the address of the resource does where the client has called its host. Whoever makes one up
    is told a wrong address, and nobody else.
    """
    said = head_of(scope).text(b"x-forwarded-prefix").rstrip("/")
    if _PREFIX.fullmatch(said):
        return said
    if oauth is None:
        return ""
    resource = urlsplit(oauth.resource)
    if Authority.parse(resource.netloc) != Authority.parse(head_of(scope).text(b"host")):
        return ""
    path = resource.path.rstrip("/")
    return path.removesuffix(_EDGE) if path.endswith(_EDGE) else ""


def telling(send: Send, scope: Scope, oauth: OAuth | None) -> Send:
    """Return a function that sends a stream whose first event has the address with the prefix and the toolsets."""
    chosen = toolsets_in(scope)
    query = "" if chosen is None else f"{urlencode({TOOLSETS: ','.join(chosen)})}&"
    address = f"{prefix_of(scope, oauth)}{MESSAGES}?{query}".encode()
    if address == _TOLD:
        return send
    is_told = False

    async def sent(message: Message) -> None:
        nonlocal is_told
        body: bytes = message.get("body", b"")
        if not is_told and _TOLD in body:
            is_told, message = True, {**message, "body": body.replace(_TOLD, address, 1)}
        await send(message)

    return sent
