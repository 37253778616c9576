"""Fetch small JSON documents of authorization servers, with limits on time, size and address."""

import socket
import ssl
from collections.abc import Mapping
from datetime import timedelta
from typing import Protocol

import anyio
import httpx2
from typing_extensions import override

from agentapi_mcp.base.json_values import is_object, load_json
from agentapi_mcp.base.urls import parse_http_url

_LARGEST = 256 * 1024
_WITHIN = timedelta(seconds=5)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class FetchError(Exception):
    """A document cannot be fetched; the message is for the operator's log."""


class Fetch(Protocol):
    """Fetch a JSON object."""

    async def __call__(self, url: str) -> Mapping[str, object]:
        """Return the document.

        Raises:
            FetchError: it cannot be fetched.
        """
        ...


class HttpFetch(Fetch):
    """Fetches over HTTPS, or over plain HTTP from loopback only; follows no redirect."""

    def __init__(self, client: httpx2.AsyncClient, *, within: timedelta = _WITHIN) -> None:
        self._client = client
        self._within = within

    @override
    async def __call__(self, url: str) -> Mapping[str, object]:
        return await self._exchange("GET", url, {}, None)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Mapping[str, object]:
        """Post a form, and return the JSON object of the response.

        Raises:
            FetchError: it cannot be fetched.
        """
        return await self._exchange("POST", url, headers, form)

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Mapping[str, object]:
        check_address(url)
        body = bytearray()
        request_headers = {"accept": "application/json", **headers}
        try:
            # Over the whole exchange: the client's timeouts start again with each read.
            with anyio.fail_after(self._within.total_seconds()):
                async with self._client.stream(method, url, headers=request_headers, data=form) as reply:
                    if not reply.is_success:
                        raise FetchError(f"{url} answers {reply.status_code}")
                    async for chunk in reply.aiter_bytes():
                        body += chunk
                        if len(body) > _LARGEST:
                            raise FetchError(f"{url} answers more than {_LARGEST} bytes")
        except TimeoutError:
            raise FetchError(f"{url} does not answer within {self._within.total_seconds():g} s") from None
        except httpx2.HTTPError as exc:
            raise FetchError(f"{url} cannot be reached: {reason_of(exc)}") from exc
        try:
            document = load_json(body)
        except (ValueError, RecursionError):
            document = None
        if not is_object(document):
            raise FetchError(f"{url} answers no JSON object")
        return document


def reason_of(error: BaseException) -> str:
    """Say why no answer came, by the error or what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not valid ({cause.verify_message})"
            case ssl.SSLError():
                return "it does not speak TLS as clients do"
            case socket.gaierror():
                return "its name has no address"
            case ConnectionRefusedError():
                return "nothing listens there"
            case _:
                cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def check_address(url: str) -> None:
    """Reject an address that is neither HTTPS nor loopback.

    Raises:
        FetchError: the document would cross a network unprotected.
    """
    try:
        parts = parse_http_url(url)
    except ValueError as exc:
        raise FetchError(f"{url} {exc}") from exc
    if "@" in parts.netloc:  # a host that looks like another, as in https://issuer.example@evil.example
        raise FetchError("an address names a user beside its host")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise FetchError(f"{url} is neither https nor on this machine")
