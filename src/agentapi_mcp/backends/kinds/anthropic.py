"""Anthropic's Messages API, and servers that speak it."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta

from pydantic import Field, SecretStr

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.fields import mapping
from agentapi_mcp.backends.wire.http import Deadlines, HttpClient, HttpRequest
from agentapi_mcp.backends.wire.messages import MessagesReply, build_request, exchange, get_json
from agentapi_mcp.backends.wire.options import BaseUrl, HeaderText, KeyedOptions, deadlines_of, read_options, secrets_of
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.core.errors import BackendError, BackendFault
from agentapi_mcp.core.events import BackendEvent
from agentapi_mcp.core.ports import BackendHost, Capability
from agentapi_mcp.core.records.backends import BackendTurn
from agentapi_mcp.core.records.health import HealthCheck, HealthStatus

_CHECK_PATIENCE = timedelta(seconds=15)


class AnthropicOptions(KeyedOptions):
    """The options of an agent whose backend is `anthropic`; docs/backends/anthropic.md explains each."""

    base_url: BaseUrl = "https://api.anthropic.com"
    provider: str = Field(default="anthropic", min_length=1, max_length=100)
    version: HeaderText = "2023-06-01"
    max_tokens: int = Field(default=8192, ge=1)
    stream: bool = True
    stops_billing: bool = True


def create(options: Mapping[str, object], host: BackendHost) -> "AnthropicBackend":
    """Make the backend from the operator's options.

    Raises:
        ConfigurationError: an option is wrong.
    """
    return AnthropicBackend(read_options(AnthropicOptions, options), host)


class AnthropicBackend:
    """One agent behind the Messages API."""

    def __init__(self, options: AnthropicOptions, host: BackendHost) -> None:
        self._options = options
        self._clock = host.clock
        self._http = host.shared(HttpClient)
        self._faults = FaultReader(provider=options.provider, redactor=Redactor(secrets_of(options)))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Declare a free check; Anthropic stops the bill when the connection is closed."""
        known = {Capability.FREE_CHECK}
        known |= {Capability.OWN_KEYS} if self._options.takes_own_keys else set()
        return frozenset(known | {Capability.STOPS_BILLING} if self._options.stops_billing else known)

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Ask the model; closing the iterator closes the connection."""
        if not turn.model_id:
            raise BackendError(BackendFault.NOT_FOUND, "No model is chosen, and the agent has no default model.")
        options = self._options
        body = build_request(turn, turn.model_id, max_tokens=options.max_tokens, stream=options.stream)
        request = HttpRequest(
            method="POST",
            url=f"{options.base_url}/v1/messages",
            headers=self._headers({"content-type": "application/json"}, turn.api_key),
            content=json.dumps(body, ensure_ascii=False).encode(errors="replace"),
            deadlines=deadlines_of(options),
            waits_for_all=not options.stream,
        )
        faults = self._faults.hiding(turn.api_key)
        answer = MessagesReply(faults, options.provider, zero_is_unknown=False)
        async with aclosing(exchange(self._http, request, faults, answer)) as events:
            async for event in events:
                yield event

    async def check(self) -> HealthCheck:
        """Ask for the first of the models, which costs nothing and needs the key."""
        started = self._clock.monotonic()
        try:
            await self._find_first_model()
        except BackendError as error:
            busy = error.fault is BackendFault.RATE_LIMIT
            return HealthCheck(status=HealthStatus.DEGRADED if busy else HealthStatus.UNHEALTHY, error=str(error))
        return HealthCheck(status=HealthStatus.HEALTHY, latency=timedelta(seconds=self._clock.monotonic() - started))

    async def aclose(self) -> None:
        """Nothing is held here: the connections are the process's."""

    async def _find_first_model(self) -> None:
        deadlines = deadlines_of(self._options)
        total = min(_CHECK_PATIENCE, deadlines.total)
        request = HttpRequest(
            method="GET",
            url=f"{self._options.base_url}/v1/models?limit=1",
            headers=self._headers({}),
            deadlines=Deadlines(connect=min(deadlines.connect, total), idle=total, total=total),
        )
        page = mapping(await get_json(self._http, request, self._faults))
        if not isinstance(page.get("data"), list):
            raise BackendError(BackendFault.BAD_REPLY, "The base URL does not lead to the Messages API.")

    def _headers(self, headers: dict[str, str], own: SecretStr | None = None) -> dict[str, str]:
        options, key = self._options, own or self._options.api_key
        headers["anthropic-version"] = options.version
        if key is not None:
            headers["x-api-key"] = key.get_secret_value()
        return headers | {name.lower(): value.get_secret_value() for name, value in options.headers.items()}
