"""claude-code-router (npm `@musistudio/claude-code-router`): the Messages API with the router's deviations."""

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest, bearer, measure, model_of
from agentapi_mcp.backends.wire.faults import COMMON_HINTS, FaultReader
from agentapi_mcp.backends.wire.messages import MessagesReply, RequestShape, build_request, exchange
from agentapi_mcp.backends.wire.options import ApiUrl, HttpOptions, read_options, secrets_of
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_list, as_object, as_text
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck
from agentapi_mcp.core.backends.ports import BackendHost, Capability

_CHECK_PATIENCE = timedelta(seconds=10)
_NEW = 3  # the first version with its own keys, which also cancels its upstream request
_PROVIDER_ERROR = re.compile(r"Error from provider\([^)]*\):\s*")
_LONGEST_MESSAGE = 64 * 1024  # characters that are looked at
# With bounds, so that no text takes the square of its length.
_STACK = re.compile(r"(?<=.)(?:[A-Z]\w{0,60})?Error: .*|\n[ \t]{1,60}at .*", re.DOTALL)


class CcrouterOptions(HttpOptions):
    """The options of an agent whose backend is `ccrouter`; docs/backends/ccrouter.md explains each."""

    endpoint: ClassVar[str] = "/v1/messages"

    base_url: ApiUrl = "http://127.0.0.1:3456"
    provider: str | None = Field(default=None, min_length=1, max_length=100, pattern=r"^[^,]+$")
    max_tokens: int | None = Field(default=None, ge=1)
    omit_parameters: frozenset[Literal["temperature"]] = frozenset()
    system_role: Literal["system", "user"] = "system"
    stream: bool = True


def create(options: Mapping[str, object], host: BackendHost) -> "CcrouterBackend":
    """Create the backend from the operator's options.

    Raises:
        ConfigurationError: an option is wrong.
    """
    return CcrouterBackend(read_options(CcrouterOptions, options), host)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFaults(FaultReader):
    """Reads the router's errors: unwraps the provider's error, and drops stack traces, which leak file paths."""

    @override
    def of_reply(self, status: int, headers: Mapping[str, str], body: object) -> BackendError:
        """Map a reply with an error status to a fault."""
        return FaultReader.of_reply(self, status, headers, inner_error(body))

    @override
    def of_error(self, body: object) -> BackendError:
        """Map an error inside a successful reply to a fault."""
        return FaultReader.of_error(self, inner_error(body))


def inner_error(body: object) -> object:
    """Extract the provider's error from the router's, or else remove the stack trace."""
    error = as_object(as_object(body).get("error"))
    message = as_text(error.get("message"))
    if message is None:
        return body
    message = message[:_LONGEST_MESSAGE]
    found = _PROVIDER_ERROR.match(message)
    if found is not None:
        try:
            inner = cast("object", json.JSONDecoder().raw_decode(message, found.end())[0])
        except (ValueError, RecursionError):
            inner = None
        if as_object(inner) or as_list(inner):
            return inner
        message = message[found.end() :]
    return {"error": {**error, "message": _STACK.sub("", message)}}


class CcrouterBackend:
    """One agent behind the router, which chooses the provider by `provider,model`."""

    def __init__(self, options: CcrouterOptions, host: BackendHost) -> None:
        self._options = options
        self._clock = host.clock
        self._api = HttpApi(options, host)
        self._shape = RequestShape(
            max_tokens=options.max_tokens,
            stream=options.stream,
            omit_parameters=options.omit_parameters,
            system_role=options.system_role,
        )
        self._faults = RouterFaults(
            provider="claude-code-router", redactor=Redactor(secrets_of(options)), hints=COMMON_HINTS
        )
        self._version: int | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Declare a free check; versions before 3 continue, and bill, the upstream request after a disconnect."""
        known = {Capability.FREE_CHECK}
        return frozenset(known | {Capability.STOPS_BILLING} if (self._version or 0) >= _NEW else known)

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Request an answer; closing the iterator closes the connection to the router."""
        options, route = self._options, self._route(model_of(turn))
        request = JsonRequest(
            path="/v1/messages",
            body=build_request(turn, route, self._shape),
            headers=bearer(options.api_key),
            streams=options.stream,
        )
        answer = MessagesReply(self._faults, options.provider)
        said = exchange(self._api, request, self._faults, answer)
        async with aclosing(self._faults.redactor.events(said)) as events:
            async for event in events:
                yield event

    async def check(self) -> HealthCheck:
        """Check version, key and configured providers of the router, without a request to a provider."""

        async def probe() -> str | None:
            await self._find_version()
            none = "The router has no providers yet: configure one, then restart it (ccr restart)."
            return None if await self._offers_a_model() else none

        return await measure(self._clock, probe, {})

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the shared HTTP client."""

    def _route(self, model_id: str) -> str:
        """Return `provider,model`, which bypasses the router's own routing rules."""
        provider = self._options.provider
        return model_id if "," in model_id or provider is None else f"{provider},{model_id}"

    async def _find_version(self) -> None:
        body = as_object(await self._get("/", with_key=False))
        if body.get("message") == "LLMs API":
            self._version = 2  # versions 1 and 2 are indistinguishable here
        elif body.get("name") == "claude-code-router":
            self._version = _NEW
        else:
            message = "What answers at the base URL is not claude-code-router; check base_url and its port."
            raise BackendError(BackendFault.BAD_REPLY, message)

    async def _offers_a_model(self) -> bool:
        if (self._version or 0) >= _NEW:
            rows = map(as_object, as_list(as_object(await self._get("/v1/models")).get("data")))
            return any(as_text(row.get("id")) for row in rows)
        providers = map(as_object, as_list(as_object(await self._get("/api/config")).get("Providers")))
        return any(as_text(row.get("name")) and any(map(as_text, as_list(row.get("models")))) for row in providers)

    async def _get(self, path: str, *, with_key: bool = True) -> object:
        headers = bearer(self._options.api_key) if with_key else None
        try:
            return await self._api.get(path, headers, self._faults, within=_CHECK_PATIENCE)
        except BackendError as error:
            if error.fault is BackendFault.AUTH:
                message = "The router refuses the key: set api_key to the APIKEY of its configuration."
                raise BackendError(BackendFault.AUTH, message) from error
            raise
