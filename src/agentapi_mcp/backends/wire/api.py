"""Request code shared by HTTP backends: address, headers, deadlines, JSON, and errors as faults."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from pydantic import SecretStr
from pydantic_core import to_json

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.http import Body, Deadlines, HttpClient, HttpRequest, Reply
from agentapi_mcp.backends.wire.options import HttpOptions, deadlines_of
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import BackendHost

Headers = Mapping[str, str]

_AUTHORIZATION = "authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonRequest:
    """A JSON request with the headers of its API; the operator's headers override them."""

    path: str
    body: Mapping[str, object]
    headers: Headers
    streams: bool


class HttpApi:
    """Sends the requests of one backend, with the operator's `base_url`, `headers` and deadlines."""

    def __init__(self, options: HttpOptions, host: BackendHost) -> None:
        self._options = options
        self._deadlines = deadlines_of(options)
        self._own_headers = {name.lower(): value.get_secret_value() for name, value in options.headers.items()}
        self._client = host.shared(HttpClient)

    @asynccontextmanager
    async def send(self, request: JsonRequest, faults: FaultReader) -> AsyncGenerator[Reply]:
        """Send a request and yield the successful reply; leaving closes the connection.

        Raises:
            BackendError: there was no reply, or it is an error.
        """
        outgoing = HttpRequest(
            method="POST",
            url=self._options.url_of(request.path),
            headers=self._headers({"content-type": "application/json", **request.headers}),
            content=Body(partial(_encoded, request.body)),
            deadlines=self._deadlines,
            waits_for_all=not request.streams,
            ca_file=self._options.ca_file,
        )
        async with self._client.exchange(outgoing) as reply:
            await refuse_errors(reply, faults)
            yield reply

    async def get(
        self, path: str, headers: Headers | None, faults: FaultReader, *, within: timedelta | None = None
    ) -> object:
        """Get JSON within the total or a shorter deadline; `headers` None omits the operator's headers too.

        Raises:
            BackendError: there was no reply, it is an error, or it is not JSON.
        """
        deadlines = self._deadlines
        total = deadlines.total if within is None else min(within, deadlines.total)
        request = HttpRequest(
            method="GET",
            url=self._options.url_of(path),
            headers={} if headers is None else self._headers(headers),
            deadlines=Deadlines(connect=min(deadlines.connect, total), idle=total, total=total),
            ca_file=self._options.ca_file,
        )
        async with self._client.exchange(request) as reply:
            await refuse_errors(reply, faults)
            return parse_json(await reply.body(), what="The provider's reply")

    def _headers(self, headers: Headers) -> dict[str, str]:
        return {**headers, **self._own_headers}


def _encoded(body: Mapping[str, object]) -> bytes:
    try:
        # A third of the time that `json` takes, which counts for the history of a long session.
        return to_json(body, inf_nan_mode="constants")
    except ValueError:  # text may hold a lone surrogate, which UTF-8 cannot encode
        return json.dumps(body, ensure_ascii=False).encode(errors="replace")


def bearer(key: SecretStr | None) -> dict[str, str]:
    """Return the bearer authorization header, or no header without a key."""
    return credential(key, _AUTHORIZATION)


def credential(key: SecretStr | None, header: str) -> dict[str, str]:
    """Return the header with a key, after `Bearer` where it is that of authorization; no header without a key."""
    if key is None:
        return {}
    scheme = "Bearer " if header.lower() == _AUTHORIZATION else ""
    return {header.lower(): f"{scheme}{key.get_secret_value()}"}


def model_of(turn: BackendTurn) -> str:
    """Return the model that the turn names.

    Raises:
        BackendError: NOT_FOUND, if it names none.
    """
    if not turn.model_id:
        said = "No model is chosen, and the agent has no default model."
        raise BackendError(BackendFault.NOT_FOUND, said).as_unbilled()
    return turn.model_id


async def measure(
    clock: Clock, probe: Callable[[], Awaitable[str | None]], statuses: Mapping[BackendFault, HealthStatus]
) -> HealthCheck:
    """Time a probe, which returns a problem or None; a fault missing from `statuses` means UNHEALTHY."""
    started = clock.monotonic()
    try:
        error = await probe()
    except BackendError as fault:
        return HealthCheck(
            status=statuses.get(fault.fault, HealthStatus.UNHEALTHY),
            error=str(fault),
            fault=fault.fault,
            next_step=fault.next_step,
        )
    latency = timedelta(seconds=clock.monotonic() - started)
    status = HealthStatus.HEALTHY if error is None else HealthStatus.UNHEALTHY
    return HealthCheck(status=status, error=error, latency=latency)


async def refuse_errors(reply: Reply, faults: FaultReader) -> None:
    """Raise the fault of an unsuccessful reply."""
    if 200 <= reply.status < 300:  # noqa: PLR2004  # the statuses of success
        return
    if 300 <= reply.status < 400:  # noqa: PLR2004  # redirects
        message = "The base URL answers with a redirect, which is not followed; set the address it leads to."
        raise BackendError(BackendFault.BAD_REPLY, message)
    raw = await reply.start_of_body()
    try:
        body = parse_json(raw, what="The error")
    except BackendError:
        body = _text_of(raw)
    raise faults.of_reply(reply.status, reply.headers, body)


def _text_of(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:  # every byte is a character of Latin-1
        return raw.decode("latin-1")
