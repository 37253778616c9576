"""Chat Completions: Azure, OpenRouter, the compatible endpoints of Vertex and Gemini, Ollama, vLLM and others."""

import re
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from datetime import timedelta
from decimal import Decimal
from functools import cached_property
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, SecretStr, field_validator, model_validator
from typing_extensions import override

from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest, credential, measure, model_of
from agentapi_mcp.backends.wire.chat_completions import (
    OURS,
    ChatCompletionsReply,
    RequestShape,
    build_request,
)
from agentapi_mcp.backends.wire.client_credentials import ClientCredentials, ClientCredentialsOptions
from agentapi_mcp.backends.wire.faults import COMMON_HINTS, FaultReader
from agentapi_mcp.backends.wire.google import GoogleCredentials
from agentapi_mcp.backends.wire.model_lists import read_models
from agentapi_mcp.backends.wire.options import HeaderText, KeyedOptions, read_options, secrets_of
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.backends.wire.replies import open_answer
from agentapi_mcp.backends.wire.tokens import Tokens
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.core.backends.events import BackendEvent
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HealthStatus, OfferedModel
from agentapi_mcp.core.backends.ports import BackendHost, Capability, ModelLister

_CHECK_PATIENCE = timedelta(seconds=15)
_STATUSES = {
    BackendFault.NOT_FOUND: HealthStatus.UNKNOWN,
    BackendFault.BACKEND_MISSING: HealthStatus.NOT_CONFIGURED,
    BackendFault.RATE_LIMIT: HealthStatus.DEGRADED,
}
_NameOfLimit = Literal["max_tokens", "max_completion_tokens"]
_PROVIDERS = {
    "openrouter.ai": "openrouter",
    "googleapis.com": "google",
    "openai.com": "openai",
    "openai.azure.com": "azure",
    "services.ai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
}
_DEPLOYMENT = re.compile(r"/openai/deployments/[^/?]+(?:\?|$)")


class OpenAIOptions(KeyedOptions):
    """The options of an agent whose backend is `openai`; docs/backends/openai.md explains each."""

    endpoint: ClassVar[str] = "/chat/completions"

    auth: Literal["api_key", "google"] = "api_key"
    client_credentials: ClientCredentialsOptions | None = None
    provider: str | None = Field(default=None, min_length=1, max_length=100)
    stream: bool = True
    include_usage: bool = True
    max_tokens_parameter: _NameOfLimit | None = None
    omit_parameters: frozenset[Literal["temperature", "max_tokens"]] = frozenset()
    system_role: Literal["system", "developer", "user"] = "system"
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
        given = {
            "api_key": self.api_key is not None,
            "auth = 'google'": self.auth == "google",
            "client_credentials": self.client_credentials is not None,
        }
        named = [name for name, is_given in given.items() if is_given]
        if len(named) > 1:
            raise ValueError(f"{named[0]} is not used with {named[1]}; leave one of them out")
        return self


def create(options: Mapping[str, object], host: BackendHost) -> "OpenAIBackend":
    """Create the backend from the operator's options.

    Raises:
        ConfigurationError: an option is wrong.
    """
    return OpenAIBackend(read_options(OpenAIOptions, options), host)


class OpenAIBackend(ModelLister):
    """One agent behind Chat Completions."""

    def __init__(self, options: OpenAIOptions, host: BackendHost) -> None:
        self._options = options
        self._clock = host.clock
        self._api = HttpApi(options, host)
        self._tokens = _tokens_of(options, host)
        self._provider = options.provider or _provider_at(options.base_url)
        self._is_openrouter = self._provider == "openrouter"
        self._key_header = options.api_key_header or ("api-key" if self._provider == "azure" else "authorization")
        # Azure lists models beside its deployments, not below each.
        self._models = "/../../models" if _DEPLOYMENT.search(options.base_url) else "/models"
        self._limit_name: _NameOfLimit = options.max_tokens_parameter or _limit_at(self._provider, options.base_url)
        self._faults = FaultReader(
            provider=self._provider or "The provider",
            redactor=Redactor(secrets_of(options)),
            hints=_hints(self._limit_name),
        )

    @cached_property
    def capabilities(self) -> frozenset[Capability]:
        """Declare a free check; whether a disconnect stops billing is the operator's option."""
        known = {Capability.FREE_CHECK}
        if self._options.takes_own_keys:
            # Where tokens are taken, keys are not: only the token of an account can replace the operator's.
            known |= {Capability.OWN_ACCOUNTS} | ({Capability.OWN_KEYS} if self._tokens is None else set())
        if "max_tokens" not in self._options.omit_parameters:
            known |= {Capability.LIMITS_ANSWERS}
        return frozenset(known | {Capability.STOPS_BILLING} if self._options.stops_billing else known)

    async def run(self, turn: BackendTurn) -> AsyncGenerator[BackendEvent]:
        """Request an answer; closing the iterator closes the connection."""
        options, model = self._options, model_of(turn)
        key = turn.access_token or await self._key(turn.api_key)
        headers = self._headers(key, is_token=turn.access_token is not None or self._tokens is not None)
        shape = RequestShape(
            stream=options.stream,
            include_usage=options.include_usage,
            max_tokens_parameter=self._limit_name,
            omit_parameters=options.omit_parameters,
            system_role=options.system_role,
            fallback_models=options.fallback_models,
            extra_body=options.extra_body,
        )
        request = JsonRequest(
            path="/chat/completions",
            body=build_request(turn, model, shape),
            headers=headers,
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
            body = await self._get("/key" if self._is_openrouter else self._models)
            spent = "The key has no credit left; raise its limit or add credit."
            return spent if self._is_openrouter and _is_spent(body) else None

        return await measure(self._clock, probe, _STATUSES)

    @override
    async def offered_models(self) -> tuple[OfferedModel, ...]:
        """Return the models of the provider's own list."""
        if self._provider == "azure":
            raise BackendError(BackendFault.NOT_FOUND, "Azure lists what can be deployed, and not the deployments.")
        return read_models(await self._get(self._models))

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the shared HTTP client."""

    @contextmanager
    def _noticing_refusals(self) -> Generator[None]:
        """Discard the operator's access token when the provider rejects it."""
        try:
            yield
        except BackendError as error:
            if self._tokens is not None and error.fault is BackendFault.AUTH:
                self._tokens.refuse()
            raise

    async def _get(self, path: str) -> object:
        key = await self._key()
        faults = self._faults.hiding(key)
        with self._noticing_refusals():
            headers = self._headers(key, is_token=self._tokens is not None)
            body = await self._api.get(path, headers, faults, within=_CHECK_PATIENCE)
        if as_object(body).get("error"):
            error = faults.of_error(body)
            # Whoever has no list says so by the status; this is another address.
            raise BackendError(BackendFault.BAD_REPLY, str(error)) if error.fault is BackendFault.NOT_FOUND else error
        if not isinstance(as_object(body).get("data"), list | dict):
            raise BackendError(BackendFault.BAD_REPLY, "The base URL does not lead to a Chat Completions API.")
        return body

    async def _key(self, own: SecretStr | None = None) -> SecretStr | None:
        """Return the credential to send, which the answer must not repeat."""
        return own or self._options.api_key if self._tokens is None else SecretStr(await self._tokens.get())

    def _headers(self, key: SecretStr | None, *, is_token: bool) -> dict[str, str]:
        options, headers = self._options, credential(key, "authorization" if is_token else self._key_header)
        if self._is_openrouter:
            headers |= {"http-referer": options.app_url} if options.app_url else {}
            headers |= {"x-openrouter-title": options.app_title} if options.app_title else {}
        return headers


def _tokens_of(options: OpenAIOptions, host: BackendHost) -> Tokens | None:
    if options.client_credentials is not None:
        return Tokens(host.clock, ClientCredentials(options.client_credentials, host, options.ca_file))
    return Tokens(host.clock, GoogleCredentials()) if options.auth == "google" else None


def _limit_at(provider: str | None, base_url: str) -> _NameOfLimit:
    """Return how the longest answer is named: OpenAI's reasoning models refuse the name that other servers know."""
    is_openais = provider == "openai" or (provider == "azure" and "/openai/v1" in base_url)
    return "max_completion_tokens" if is_openais else "max_tokens"


def _hints(limit_name: _NameOfLimit) -> Mapping[str, str]:
    """Return the next steps for what a model refuses, also the name of the longest answer in the request."""
    other: _NameOfLimit = "max_tokens" if limit_name == "max_completion_tokens" else "max_completion_tokens"
    return {
        "stream_options": "The operator can set include_usage = false in the agent's options.",
        "max_completion_tokens": f'The operator can set max_tokens_parameter = "{other}" in the agent\'s options.',
        **COMMON_HINTS,
    }


def _provider_at(base_url: str) -> str | None:
    host = urlsplit(base_url).hostname or ""
    return next((name for domain, name in _PROVIDERS.items() if host == domain or host.endswith(f".{domain}")), None)


def _is_spent(body: object) -> bool:
    remaining = as_object(as_object(body).get("data")).get("limit_remaining")
    return isinstance(remaining, int | Decimal) and not isinstance(remaining, bool) and remaining <= 0
