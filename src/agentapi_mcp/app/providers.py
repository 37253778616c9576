"""Providers of models as `agents add` meets them: the models that they offer, and whether an agent works."""

import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from agentapi_mcp.app.backend_host import ProcessBackendHost
from agentapi_mcp.app.build import build_backend
from agentapi_mcp.app.database import home_of
from agentapi_mcp.backends.registry import create, names
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.json_values import as_count, as_object, is_object
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus
from agentapi_mcp.core.backends.ports import ModelLister
from agentapi_mcp.core.catalogue.models import AgentDeclaration
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, FILE_NAME, load_catalogue

_PATIENCE = timedelta(seconds=15)
_MILLION = 1_000_000
# What a configuration file may hold; a list that says more is wrong there. Smaller prices are none.
_LONGEST_ID, _MOST_TOKENS, _MOST_USD, _LEAST_USD = 255, 1_000_000_000, 1_000_000, Decimal("1e-9")
# The names that OpenRouter, Groq, Mistral, vLLM and LM Studio, and Anthropic give to the same.
_WINDOWS = ("context_length", "context_window", "max_context_length", "max_model_len", "max_input_tokens")
_OUTPUTS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedModel:
    """A model in a provider's list, which does not say what is None; prices are US dollars per million tokens."""

    model_id: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_price: Decimal | None = None
    output_price: Decimal | None = None
    cached_price: Decimal | None = None


def own_file(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the configuration file of the operator, which need not exist."""
    return settings.config or home_of(settings, environ) / FILE_NAME


def declared_agents(settings: Settings, environ: Mapping[str, str]) -> dict[str, AgentDeclaration]:
    """Return the agents that the configuration files declare, by their names.

    Raises:
        ConfigurationError: a file is unreadable or wrong.
    """
    own = own_file(settings, environ)
    paths = (DEFAULTS, own) if own.exists() else (DEFAULTS,)
    return {agent.name: agent for agent in load_catalogue(paths, environ, names).agents}


def packaged_agents() -> frozenset[str]:
    """Return the names of the agents out of the box."""
    return frozenset(agent.name for agent in load_catalogue((DEFAULTS,), {}, names).agents)


async def offered_models(
    backend: str, options: Mapping[str, object], environ: Mapping[str, str], *, within: timedelta = _PATIENCE
) -> tuple[OfferedModel, ...]:
    """Ask the provider of an agent with these options for its models, in the way in which the agent is asked.

    One whose id cannot be written is left out, and an implausible number is unknown.

    Raises:
        BackendError: it did not answer, refused the key, or has no list of models there.
        ConfigurationError: an option is wrong, or the backend knows no list.
    """
    async with _open_host(environ) as host:
        agent = create(backend, options, host)
        try:
            if not isinstance(agent, ModelLister):
                raise ConfigurationError(f"The backend {backend} has no list of models to read.")
            read = [_model(as_object(each)) for each in await agent.list_models(within=within)]
        finally:
            await agent.aclose()
    return tuple(model for model in read if model.model_id)


def agents_of(text: str, environ: Mapping[str, str], *, called: str) -> tuple[AgentDeclaration, ...]:
    """Return the agents that a text of a configuration file declares; errors name it as it is called.

    Raises:
        ConfigurationError: the text is wrong.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / FILE_NAME
        path.write_text(text, encoding="utf-8")
        try:
            return load_catalogue((path,), environ, names).agents
        except ConfigurationError as exc:
            raise ConfigurationError(str(exc).replace(f"{path}, ", f"{called}, ")) from exc


async def check_agent(text: str, name: str, environ: Mapping[str, str], *, tries: bool) -> HealthCheck:
    """Check an agent that a TOML text declares, as the server would; without a try, its declaration and options.

    Raises:
        ConfigurationError: the declaration or its options are wrong.
    """
    declared = agents_of(text, environ, called="The new agent")
    async with _open_host(environ) as host:
        backend = build_backend(host, next(agent for agent in declared if agent.name == name))
        try:
            return await backend.check() if tries else HealthCheck(status=HealthStatus.UNKNOWN)
        finally:
            await backend.aclose()


@asynccontextmanager
async def _open_host(environ: Mapping[str, str]) -> AsyncGenerator[ProcessBackendHost]:
    host = ProcessBackendHost(SystemClock(), environ)
    try:
        yield host
    finally:
        await host.aclose()


def _model(fields: Mapping[str, object]) -> OfferedModel:
    name, prices = fields.get("id"), as_object(fields.get("pricing"))
    return OfferedModel(
        model_id=_model_id(name) if isinstance(name, str) else "",
        context_window=_count(fields, _WINDOWS),
        max_output_tokens=_count(as_object(fields.get("top_provider")), _OUTPUTS) or _count(fields, _OUTPUTS),
        input_price=_price(prices.get("prompt")),
        output_price=_price(prices.get("completion")),
        cached_price=_price(prices.get("input_cache_read")),
    )


def _model_id(name: str) -> str:
    # Gemini lists its models with the prefix of its own API, and takes them without.
    model_id = name.removeprefix("models/")
    return model_id if len(model_id) <= _LONGEST_ID and model_id.isprintable() else ""


def _count(fields: Mapping[str, object], keys: tuple[str, ...]) -> int | None:
    found = (as_count(fields.get(key)) for key in keys)
    return next((value for value in found if value and value <= _MOST_TOKENS), None)


def _price(value: object) -> Decimal | None:
    """Return a price per token as one per million; what is negative means that it depends."""
    if is_object(value) or isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        price = Decimal(value) * _MILLION
    except ArithmeticError:
        return None
    is_price = price.is_finite() and (price == 0 or _LEAST_USD <= price <= _MOST_USD)
    return price.normalize() if is_price else None
