"""A server without a token on loopback, and what a web page can make its visitor's browser send there."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agentapi_mcp.core.conversations.session_facts import SessionFilter
from tests.edges.mcp.test_http import ACCEPT, META, MODERN, message, served

PATHS = ("/mcp", "/mcp/", "/sse", "/messages/", "/messages/?session_id=0123456789abcdef0123456789abcdef")
EVIL = "https://evil.example"
# What a page's script can set without asking first (Fetch, "CORS-safelisted request-header").
SIMPLE = ("text/plain", "text/plain;application/json", "application/x-www-form-urlencoded", "multipart/form-data")
PAGES: dict[str, Mapping[str, str]] = {
    "another site's": {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    "a file's or a sandbox's": {"origin": "null", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    "one with nearly our name": {"origin": "http://127.0.0.1.evil.example", "sec-fetch-site": "cross-site"},
    "an extension's": {"origin": "chrome-extension://abcdefghijklmnop", "sec-fetch-site": "none"},
}
# What brings no Origin: images, scripts, styles, frames; and a page of this machine itself.
EMBEDDED: dict[str, Mapping[str, str]] = {
    "an image": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    "a script": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
    "a frame": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    "an image on another port": {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
}


def chat(words: str, *, modern: bool) -> str:
    """Ask for a turn, as a request of either era."""
    meta = {"_meta": META} if modern else {}
    asked = {"name": "chat", "arguments": {"agent": "droid", "message": words}}
    return json.dumps(message("tools/call", asked | meta))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("modern", [True, False], ids=["2026", "2025"])
async def test_no_page_has_anything_done(path: str, modern: bool, edge_home: Path) -> None:  # noqa: FBT001  # a parameter
    words = f"stolen {secrets.token_hex(6)}"
    # A page cannot set these without a preflight; a server that did not look would be met by them all the same.
    era = MODERN | {"mcp-method": "tools/call", "mcp-name": "chat"} if modern else ACCEPT
    async with served(edge_home) as (_, edge, http):
        for page in PAGES.values():
            for kind in (*SIMPLE, "application/json"):
                answer = await http.post(
                    path, content=chat(words, modern=modern), headers={**era, **page, "content-type": kind}
                )
                assert answer.status_code == 403
                assert "access-control-allow-origin" not in answer.headers
        for kind in SIMPLE:  # a browser that says nothing of where it comes from
            answer = await http.post(path, content=chat(words, modern=modern), headers={**era, "content-type": kind})
            assert answer.status_code in {405, 415}
        sessions = await edge.services.sessions.list_(edge.services.principal, SessionFilter(query=words))
        assert sessions.items == ()
        assert edge.peer.exchanges == []
        if path.startswith("/mcp"):  # what a program sends is done, so that all of the above could have been
            headers = {**era, "content-type": "application/json"}
            assert (await http.post(path, content=chat(words, modern=modern), headers=headers)).status_code == 200
            assert edge.peer.exchanges != []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_no_page_is_allowed_what_needs_leave(path: str, method: str, edge_home: Path) -> None:
    asked = "authorization, content-type, mcp-protocol-version, mcp-session-id"
    leave = {"access-control-request-method": method, "access-control-request-headers": asked}
    private = {"access-control-request-private-network": "true", "access-control-request-local-network": "true"}
    async with served(edge_home) as (_, _, http):
        for page in PAGES.values():
            answer = await http.options(path, headers={**page, **leave, **private})
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_is_embedded_in_a_page(path: str, edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for page in EMBEDDED.values():
            for accept in ("*/*", "text/event-stream"):
                answer = await http.get(path, headers={**page, "accept": accept})
                assert answer.status_code == 403, answer.text


async def test_a_link_and_a_page_of_ones_own_are_no_embedding(edge_home: Path) -> None:
    async with served(edge_home) as (_, _, http):
        for site in ("cross-site", "same-origin", "none"):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
            assert (await http.get("/nowhere", headers=headers)).status_code == 404


@pytest.mark.parametrize("path", PATHS)
async def test_a_name_that_was_turned_to_this_machine_leads_nowhere(path: str, edge_home: Path) -> None:
    async with served(edge_home) as (place, _, http):
        port = urlsplit(place.base).port
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "[::]", ""):  # noqa: S104  # as a page may write it
            rebound = {"host": f"{name}:{port}", "origin": f"http://{name}:{port}", "sec-fetch-site": "same-origin"}
            for method in ("GET", "POST", "OPTIONS"):
                answer = await http.request(method, path, content=chat("x", modern=False), headers=rebound)
                assert answer.status_code == (421 if name else 400), (name, method)  # no name at all is no Host


async def test_a_web_socket_is_refused(edge_home: Path) -> None:
    async with served(edge_home) as (place, _, _):
        port = urlsplit(place.base).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = (f"Host: 127.0.0.1:{port}", f"Origin: {EVIL}", "Connection: Upgrade", "Upgrade: websocket")
        keys = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        writer.write("\r\n".join(("GET /mcp HTTP/1.1", *lines, *keys, "", "")).encode())
        assert b" 403 " in await reader.readline()
        writer.close()
