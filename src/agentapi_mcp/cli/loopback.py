"""The way back from a provider to a command: a listener on this machine's loopback address (RFC 8252, section 7.3)."""

import asyncio
import hmac
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

from agentapi_mcp.base.errors import ConfigurationError, NotAuthenticatedError
from agentapi_mcp.core.access.models import LoginAnswer

_HOST = "127.0.0.1"
_PATH = "/accounts/callback"
_WITHIN = timedelta(minutes=10)
_REQUEST_WITHIN = timedelta(seconds=5)
_LARGEST = 16 * 1024
_DONE = "The provider has answered: close this page, and go back to the terminal, which says whether it worked."
_REFUSED = "The provider refused: nothing is connected. Close this page, and go back to the terminal."
_NOT_FOUND = "There is nothing here."


class Loopback:
    """A listener for one answer; opened with `open_loopback`."""

    def __init__(self) -> None:
        self.redirect_uri = ""
        self._state = ""
        self._answer: asyncio.Future[LoginAnswer] = asyncio.get_running_loop().create_future()

    async def wait(self, state: str) -> LoginAnswer:
        """Wait for the answer with this state, without a state for the first.

        Raises:
            NotAuthenticatedError: nobody came back in time.
        """
        self._state = state
        try:
            async with asyncio.timeout(_WITHIN.total_seconds()):
                return await self._answer
        except TimeoutError:
            raise NotAuthenticatedError("Nobody came back from the provider in ten minutes; begin again.") from None

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_WITHIN.total_seconds()):
                head = await reader.readuntil(b"\r\n\r\n")
            answer = self._read(head.decode("latin-1"))
            if answer is None or self._answer.done():
                status, text = "404 Not Found", _NOT_FOUND
            else:
                status, text = "200 OK", _DONE if answer.error is None else _REFUSED
                self._answer.set_result(answer)
            body = text.encode()
            writer.write(
                f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
                "cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()

    def _read(self, head: str) -> LoginAnswer | None:
        """Read the answer; None for any other request, which a page in the same browser can send too."""
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        url = urlsplit(rest.partition(" ")[0])
        hosts = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:")]
        # Another name for this machine would be one that a stranger's page resolved to it.
        if method != "GET" or url.path != _PATH or hosts != [urlsplit(self.redirect_uri).netloc]:
            return None
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self._state and not hmac.compare_digest(query.get("state", "").encode(), self._state.encode()):
            return None
        return LoginAnswer(
            state=query.get("state"), code=query.get("code"), issuer=query.get("iss"), error=query.get("error")
        )


@asynccontextmanager
async def open_loopback(port: int | None) -> AsyncGenerator[Loopback]:
    """Listen on this port, or on a free one.

    Raises:
        ConfigurationError: the port is taken.
    """
    loopback = Loopback()
    try:
        server = await asyncio.start_server(loopback.converse, _HOST, port or 0, limit=_LARGEST)
    except OSError as exc:
        raise ConfigurationError(f"Port {port} of {_HOST} cannot be used ({exc.strerror}); name another.") from exc
    async with server:
        loopback.redirect_uri = f"http://{_HOST}:{server.sockets[0].getsockname()[1]}{_PATH}"
        yield loopback
