"""Anthropic's Messages API, and servers that speak it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import ClassVar, Literal

from pydantic import Field, SecretStr
from typing_extensions import override

from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest, credential, measure, model_of
from agentapi_mcp.backends.wire.faults import COMMON_HINTS, FaultReader
from agentapi_mcp.backends.wire.messages import MessagesReply, RequestShape, build_request, exchange
from agentapi_mcp.backends.wire.model_lists import read_models
from agentapi_mcp.backends.wire.options import ApiUrl, HeaderText, KeyedOptions, read_options, secrets_of
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_object, is_list
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus, OfferedModel
from agentapi_mcp.core.backends.ports import BackendHost, Capability, ModelLister

_CHECK_PATIENCE = timedelta(seconds=15)
_STATUSES = {BackendFault.RATE_LIMIT: HealthStatus.DEGRADED}


class AnthropicOptions(KeyedOptions):
    """The options of an agent whose backend is `anthropic`; docs/backends/anthropic.md explains each."""

    endpoint: ClassVar[str] = "/v1/messages"

    base_url: ApiUrl = "https://api.anthropic.com"
    provider: str = Field(default="anthropic", min_length=1, max_length=100)
    version: HeaderText = "2023-06-01"
    max_tokens: int | None = Field(default=None, ge=1)
    omit_parameters: frozenset[Literal["temperature"]] = frozenset()
    system_role: Literal["system", "user"] = "system"
    stream: bool = True
    stops_billing: bool = True


def create(options: Mapping[str, object], host: BackendHost) -> "AnthropicBackend":
    """Create the backend from the operator's options.

    Raises:
        ConfigurationError: an option is wrong.
    """
    return AnthropicBackend(read_options(AnthropicOptions, options), host)


class AnthropicBackend(ModelLister):
    """One agent behind the Messages API."""

    def __init__(self, options: AnthropicOptions, host: BackendHost) -> None:
        self._options = options
        self._clock = host.clock
        self._api = HttpApi(options, host)
        self._shape = RequestShape(
            max_tokens=options.max_tokens,
            stream=options.stream,
            omit_parameters=options.omit_parameters,
            system_role=options.system_role,
        )
        self._faults = FaultReader(
            provider=options.provider, redactor=Redactor(secrets_of(options)), hints=COMMON_HINTS
        )

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Declare a free check; a disconnect stops billing."""
        known = {Capability.FREE_CHECK, Capability.LIMITS_ANSWERS}
        known |= {Capability.OWN_KEYS} if self._options.takes_own_keys else set()
        return frozenset(known | {Capability.STOPS_BILLING} if self._options.stops_billing else known)

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Request an answer; closing the iterator closes the connection."""
        options = self._options
        request = JsonRequest(
            path="/v1/messages",
            body=build_request(turn, model_of(turn), self._shape),
            headers=self._headers(turn.api_key),
            streams=options.stream,
        )
        faults = self._faults.hiding(turn.api_key)
        answer = MessagesReply(faults, options.provider)
        async with aclosing(faults.redactor.events(exchange(self._api, request, faults, answer))) as events:
            async for event in events:
                yield event

    async def check(self) -> HealthCheck:
        """List one model, which is free and verifies the key."""

        async def probe() -> None:
            await self._listed(1)

        return await measure(self._clock, probe, _STATUSES)

    @override
    async def offered_models(self) -> tuple[OfferedModel, ...]:
        """Return the newest thousand models of the provider's own list."""
        return read_models(await self._listed(1000))

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the shared HTTP client."""

    async def _listed(self, most: int) -> object:
        path = f"/v1/models?limit={most}"
        body = await self._api.get(path, self._headers(), self._faults, within=_CHECK_PATIENCE)
        if not is_list(as_object(body).get("data")):
            raise BackendError(BackendFault.BAD_REPLY, "The base URL does not lead to the Messages API.")
        return body

    def _headers(self, own: SecretStr | None = None) -> dict[str, str]:
        key = own or self._options.api_key
        header = self._options.api_key_header or "x-api-key"
        return {"anthropic-version": self._options.version, **credential(key, header)}
