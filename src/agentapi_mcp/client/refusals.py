"""What a server over HTTP, or what stands before it, says instead of answering: its status, in words."""

from contextlib import suppress
from http import HTTPStatus

import httpx2

from agentapi_mcp.base.json_values import as_object, load_json
from agentapi_mcp.client.errors import ClientError, ConnectionLostError, RefusedError

# The SDK's words where there is no answer to a call: they tell neither the status nor what the server said.
_SAYS_NOTHING = ("Server returned an error response", "Not Found", "Session terminated")
_NO_MCP = (
    *("Unexpected content type", "Failed to parse JSON response", "Failed to parse SSE message"),
    "server answered a request with 202",
)
_BUSY = HTTPStatus.TOO_MANY_REQUESTS
_CODES = {401: "not_authenticated", 403: "permission_denied", 404: "not_found", _BUSY: "limit_exceeded"}
_LONGEST = 500  # characters of what a proxy says


class Refusals:
    """The last refusal of a server at an address; `heard` is called with its responses."""

    def __init__(self, url: str, *, has_token: bool) -> None:
        self._url = url
        self._has_token = has_token
        self._last: ClientError | None = None
        self.is_open = False  # whether an MCP server has answered there

    async def heard(self, response: httpx2.Response) -> None:
        """Note a refusal, and what it says."""
        status = response.status_code
        if status < HTTPStatus.BAD_REQUEST:
            return
        said = ""
        if response.headers.get("content-type", "").startswith("application/json"):
            with suppress(ValueError, httpx2.HTTPError):
                said = str(as_object(load_json(await response.aread())).get("error", ""))[:_LONGEST]
        self._last = self._error(status, said, _seconds(response.headers.get("retry-after", "")))

    def instead_of(self, error: ClientError) -> ClientError:
        """Return what the server said, where an error does not tell it."""
        if str(error).startswith(_NO_MCP) and self.is_open:
            # The message may have gone through: who takes this for a refusal asks again, and pays twice.
            words = "is no answer of an MCP server, and does not say what became of the call"
            return ConnectionLostError(f"What came from {self._url} {words}.")
        if str(error).startswith(_NO_MCP):
            no_server = f"What answers at {self._url} is no MCP server: its address ends in /mcp."
            return RefusedError(no_server, {"code": _CODES[HTTPStatus.NOT_FOUND]})
        return self._last if self._last is not None and str(error) in _SAYS_NOTHING else error

    def _error(self, status: int, said: str, seconds: float | None) -> ClientError:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            words = "cannot answer now, nor say what became of the call"
            return ConnectionLostError(f"The server at {self._url} {words} (status {status}). {said}".strip())
        match status:
            case 401 if self._has_token:
                why = "The server does not take the token: it is wrong, has expired or was withdrawn."
            case 401:
                why = "The server asks for a token: pass one as `token`."
            case 403:
                why = "The server does not allow this."
            case 404:
                why = f"There is no MCP server at {self._url}: its address ends in /mcp."
            case HTTPStatus.TOO_MANY_REQUESTS:
                why = "The server has too many calls of yours: wait, then call again."
            case _:
                why = f"The server refused the call (status {status})."
        details = {"code": _CODES.get(status), "retryable": status == _BUSY, "retry_after_seconds": seconds}
        return RefusedError(f"{why} {said}".strip(), details)


def _seconds(written: str) -> float | None:
    return float(written) if written.isdecimal() else None
