"""Requests of the HTTP client of the backends, each by a client of its own."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from agentapi_mcp.backends.wire.http import Body, Deadlines, HttpClient, HttpRequest
from agentapi_mcp.base.errors import BackendError, BackendFault

_TWENTY = timedelta(seconds=20)
LONG = Deadlines(connect=_TWENTY, idle=_TWENTY, total=timedelta(seconds=25))


def get(url: str, headers: Mapping[str, str] | None = None, deadlines: Deadlines = LONG) -> HttpRequest:
    """Return a request without a body."""
    return HttpRequest(method="GET", url=url, headers=headers or {}, deadlines=deadlines)


def post(url: str, content: bytes = b"{}", *, waits_for_all: bool = False, deadlines: Deadlines = LONG) -> HttpRequest:
    """Return a request with a body."""
    headers = {"content-type": "application/json", "Authorization": "Bearer x"}
    return HttpRequest(
        method="POST",
        url=url,
        headers=headers,
        deadlines=deadlines,
        content=Body(lambda: content),
        waits_for_all=waits_for_all,
    )


async def ask(request: HttpRequest) -> bytes:
    """Ask, and read the whole reply."""
    async with HttpClient() as client, client.exchange(request) as reply:
        return await reply.body()


async def fail(request: HttpRequest) -> tuple[BackendFault, str]:
    """Ask for what fails, and return how."""
    with pytest.raises(BackendError) as caught:
        await ask(request)
    return caught.value.fault, str(caught.value)
