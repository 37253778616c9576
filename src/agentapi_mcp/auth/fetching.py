"""Fetch small JSON documents of authorization servers, with limits on time, size and address."""

import json
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

import anyio
import httpx2
from typing_extensions import override

from agentapi_mcp.base.json_values import is_object, load_json
from agentapi_mcp.base.urls import parse_http_url

_LARGEST = 256 * 1024
_WITHIN = timedelta(seconds=5)
_ERROR_CODE = re.compile(r"[a-z0-9_]{1,64}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class FetchError(Exception):
    """A document cannot be fetched; the message is for the operator's log."""


class RefusedError(FetchError):
    """The server answers with an error status; `error` is the code of OAuth (RFC 6749, section 5.2), if it has one."""

    def __init__(self, url: str, status: int, error: str | None) -> None:
        super().__init__(f"{url} answers {status}{f' ({error})' if error else ''}")
        self.status = status
        self.error = error


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

    async def post_json(self, url: str, content: Mapping[str, str]) -> Mapping[str, object]:
        """Post a JSON object, and return that of the response.

        Raises:
            FetchError: it cannot be fetched.
        """
        headers = {"content-type": "application/json"}
        return _json(url, await self._body("POST", url, headers, json.dumps(dict(content)).encode()))

    async def notify(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> None:
        """Post a form for its effect alone: the body of the response is ignored.

        Raises:
            FetchError: the server did not accept it.
        """
        await self._body("POST", url, headers, form)

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Mapping[str, object]:
        return _json(url, await self._body(method, url, headers, form))

    async def _body(
        self, method: str, url: str, headers: Mapping[str, str], content: Mapping[str, str] | bytes | None
    ) -> bytes:
        check_address(url)
        body = bytearray()
        request_headers = {"accept": "application/json", **headers}
        try:
            # Over the whole exchange: the client's timeouts start again with each read.
            with anyio.fail_after(self._within.total_seconds()):
                async with self._stream(method, url, request_headers, content) as reply:
                    async for chunk in reply.aiter_bytes():
                        body += chunk
                        if len(body) > _LARGEST:
                            raise FetchError(f"{url} answers more than {_LARGEST} bytes")
                    if not reply.is_success:
                        raise RefusedError(url, reply.status_code, _error_code(body))
        except TimeoutError:
            raise FetchError(f"{url} does not answer within {self._within.total_seconds():g} s") from None
        except httpx2.HTTPError as exc:
            raise FetchError(f"{url} cannot be reached: {reason_of(exc)}") from exc
        return bytes(body)

    def _stream(
        self, method: str, url: str, headers: Mapping[str, str], content: Mapping[str, str] | bytes | None
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        if isinstance(content, bytes):
            return self._client.stream(method, url, headers=headers, content=content)
        return self._client.stream(method, url, headers=headers, data=content)


def _json(url: str, body: bytes) -> Mapping[str, object]:
    document = _object(body)
    if document is None:
        raise FetchError(f"{url} answers no JSON object")
    return document


def _object(body: bytes | bytearray) -> Mapping[str, object] | None:
    try:
        document = load_json(bytes(body))
    except (ValueError, RecursionError):
        return None
    return document if is_object(document) else None


def _error_code(body: bytes | bytearray) -> str | None:
    code = (_object(body) or {}).get("error")
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else None


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
    """Reject an address that is neither HTTPS nor loopback, or that no request can be sent to.

    Raises:
        FetchError: it is no address, or the document would cross a network unprotected.
    """
    try:
        parts = parse_http_url(url)
        _ = httpx2.URL(url)  # stricter: 256.256.256.256 is no host, and 70,000 characters are no address
    except ValueError as exc:
        raise FetchError(f"{url} {exc}") from exc
    except httpx2.InvalidURL as exc:
        raise FetchError(f"{url[:200]} is not a URL") from exc
    if "@" in parts.netloc:  # a host that looks like another, as in https://issuer.example@evil.example
        raise FetchError("an address names a user beside its host")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise FetchError(f"{url} is neither https nor on this machine")
