"""Ask a server as a stranger would, for the doctor: one request without a token, with limits on time and size."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio
import httpx2

from agentapi_mcp.auth.fetching import FetchError, reason_of

_LARGEST = 64 * 1024
_WITHIN = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a server answered; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Prober:
    """Asks any address that the operator names, and follows no redirect; opened with `open_prober`."""

    def __init__(self, client: httpx2.AsyncClient, within: timedelta = _WITHIN) -> None:
        self._client = client
        self._within = within

    async def ask(self, method: str, url: str, content: bytes | None = None) -> ProbeAnswer:
        """Send one request, and return the answer with the beginning of its body.

        Raises:
            FetchError: there is none; the message says why.
        """
        headers = {"accept": "application/json, text/event-stream"}
        if content is not None:
            headers["content-type"] = "application/json"
        body = bytearray()
        try:
            # Over the whole exchange: the client's timeouts start again with each read.
            with anyio.fail_after(self._within.total_seconds()):
                async with self._client.stream(method, url, headers=headers, content=content) as reply:
                    async for chunk in reply.aiter_bytes():
                        body += chunk
                        if len(body) > _LARGEST:
                            break
                    return ProbeAnswer(reply.status_code, dict(reply.headers), bytes(body[:_LARGEST]))
        except TimeoutError:
            raise FetchError(f"{url} does not answer within {self._within.total_seconds():g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise FetchError(f"{url} cannot be reached: {reason_of(exc)}") from exc


@asynccontextmanager
async def open_prober() -> AsyncGenerator[Prober]:
    """Open a prober."""
    async with httpx2.AsyncClient() as client:
        yield Prober(client)
