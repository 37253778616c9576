"""Chat Completions: OpenRouter, the compatible endpoints of Vertex and Gemini, Ollama, vLLM, LM Studio and others."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, SecretStr, field_validator, model_validator

from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest, bearer, measure, model_of
from agentapi_mcp.backends.wire.chat_completions import (
    OURS,
    ChatCompletionsReply,
    RequestShape,
    build_request,
)
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.google import GoogleTokens
from agentapi_mcp.backends.wire.options import HeaderText, KeyedOptions, read_options, secrets_of
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.backends.wire.replies import open_answer
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import BackendHost, Capability

_CHECK_PATIENCE = timedelta(seconds=15)
_STATUSES = {
    BackendFault.NOT_FOUND: HealthStatus.UNKNOWN,
    BackendFault.BACKEND_MISSING: HealthStatus.NOT_CONFIGURED,
    BackendFault.RATE_LIMIT: HealthStatus.DEGRADED,
}
_HINTS = {
    "stream_options": "The operator can set include_usage = false in the agent's options.",
    "max_completion_tokens": (
        'The operator can set max_tokens_parameter = "max_completion_tokens" in the agent\'s options.'
    ),
}
_PROVIDERS = {
    "openrouter.ai": "openrouter",
    "googleapis.com": "google",
    "openai.com": "openai",
}


class OpenAIOptions(KeyedOptions):
    """The options of an agent whose backend is `openai`; docs/backends/openai.md explains each."""

    auth: Literal["api_key", "google"] = "api_key"
    provider: str | None = Field(default=None, min_length=1, max_length=100)
    stream: bool = True
    include_usage: bool = True
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    fallback_models: tuple[str, ...] = ()
    extra_body: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    stops_billing: bool = False
    app_url: HeaderText | None = None
    app_title: HeaderText | None = None

    @field_validator("extra_body")
    @classmethod
    def _leaves_ours_alone(cls, extra_body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := OURS & extra_body.keys():
            raise ValueError(f"may not set {', '.join(sorted(taken))}")
        return extra_body

    @model_validator(mode="after")
    def _has_one_credential(self) -> "OpenAIOptions":
        if self.auth == "google" and self.api_key is not None:
            raise ValueError("api_key is not used with auth = 'google'; leave one of them out")
        return self


def create(options: Mapping[str, object], host: BackendHost) -> "OpenAIBackend":
    """Create the backend from the operator's options.

    Raises:
        ConfigurationError: an option is wrong.
    """
    return OpenAIBackend(read_options(OpenAIOptions, options), host)


class OpenAIBackend:
    """One agent behind Chat Completions."""

    def __init__(self, options: OpenAIOptions, host: BackendHost) -> None:
        self._options = options
        self._clock = host.clock
        self._api = HttpApi(options, host)
        self._google = GoogleTokens(host.clock) if options.auth == "google" else None
        self._provider = options.provider or _provider_at(options.base_url)
        self._is_openrouter = self._provider == "openrouter"
        self._faults = FaultReader(
            provider=self._provider or "The provider",
            redactor=Redactor(secrets_of(options)),
            hints=_HINTS,
        )

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """Declare a free check; whether a disconnect stops billing is the operator's option."""
        known = {Capability.FREE_CHECK}
        if self._options.takes_own_keys:
            # Google takes no key where it takes tokens, so only the token of an account can replace the operator's.
            known |= {Capability.OWN_ACCOUNTS} | ({Capability.OWN_KEYS} if self._google is None else set())
        return frozenset(known | {Capability.STOPS_BILLING} if self._options.stops_billing else known)

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Request an answer; closing the iterator closes the connection."""
        options, model, key = self._options, model_of(turn), await self._key(turn.access_token, turn.api_key)
        shape = RequestShape(
            stream=options.stream,
            include_usage=options.include_usage,
            max_tokens_parameter=options.max_tokens_parameter,
            fallback_models=options.fallback_models,
            extra_body=options.extra_body,
        )
        request = JsonRequest(
            path="/chat/completions",
            body=build_request(turn, model, shape),
            headers=self._headers(key),
            streams=options.stream,
        )
        faults = self._faults.hiding(key)
        is_operators = turn.access_token is None
        async with aclosing(faults.redactor.events(self._ask(request, faults, is_operators))) as events:
            async for event in events:
                yield event

    async def _ask(
        self,
        request: JsonRequest,
        faults: FaultReader,
        is_operators: bool,  # noqa: FBT001  # of one caller
    ) -> AsyncGenerator[BackendEvent]:
        answer = ChatCompletionsReply(faults, provider=self._provider, has_cost=self._is_openrouter)
        with self._noticing_refusals() if is_operators else nullcontext():
            async with self._api.send(request, faults) as reply, open_answer(reply, answer) as events:
                async for event in events:
                    yield event

    async def check(self) -> HealthCheck:
        """Check the key's budget at OpenRouter, or list the models at any other provider."""

        async def probe() -> str | None:
            body = await self._get("/key" if self._is_openrouter else "/models")
            spent = "The key has no credit left; raise its limit or add credit."
            return spent if self._is_openrouter and _is_spent(body) else None

        return await measure(self._clock, probe, _STATUSES)

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the shared HTTP client."""

    @contextmanager
    def _noticing_refusals(self) -> Generator[None]:
        """Discard the operator's access token of Google when the provider rejects it."""
        try:
            yield
        except BackendError as error:
            if self._google is not None and error.fault is BackendFault.AUTH:
                self._google.refuse()
            raise

    async def _get(self, path: str) -> object:
        key = await self._key()
        faults = self._faults.hiding(key)
        with self._noticing_refusals():
            body = await self._api.get(path, self._headers(key), faults, within=_CHECK_PATIENCE)
        if as_object(body).get("error"):
            raise faults.of_error(body)
        if not isinstance(as_object(body).get("data"), list | dict):
            raise BackendError(BackendFault.BAD_REPLY, "The base URL does not lead to a Chat Completions API.")
        return body

    async def _key(self, token: SecretStr | None = None, own: SecretStr | None = None) -> SecretStr | None:
        """Return the credential to send, which the answer must not repeat."""
        if token is not None:
            return token
        return own or self._options.api_key if self._google is None else SecretStr(await self._google.token())

    def _headers(self, key: SecretStr | None) -> dict[str, str]:
        options, headers = self._options, bearer(key)
        if self._is_openrouter:
            headers |= {"http-referer": options.app_url} if options.app_url else {}
            headers |= {"x-openrouter-title": options.app_title} if options.app_title else {}
        return headers


def _provider_at(base_url: str) -> str | None:
    host = urlsplit(base_url).hostname or ""
    return next((name for domain, name in _PROVIDERS.items() if host == domain or host.endswith(f".{domain}")), None)


def _is_spent(body: object) -> bool:
    remaining = as_object(as_object(body).get("data")).get("limit_remaining")
    return isinstance(remaining, int | Decimal) and not isinstance(remaining, bool) and remaining <= 0
