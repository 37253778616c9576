"""Providers of models as `agents add` meets them: the models that they offer, and whether an agent works."""

import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from agentapi_mcp.app.backend_host import ProcessBackendHost
from agentapi_mcp.app.home import home_of
from agentapi_mcp.backends.registry import create, lists_models, names
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.backends.models import HealthCheck, HealthStatus, OfferedModel
from agentapi_mcp.core.backends.ports import ModelLister
from agentapi_mcp.core.catalogue.models import AgentDeclaration
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, FILE_NAME, load_catalogue


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
    kind: str, options: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[OfferedModel, ...]:
    """Ask the provider behind a backend for its models.

    Raises:
        BackendError: it did not answer, refused the key, or has no list of models there.
        ConfigurationError: the options are wrong, or backends of this kind have no list.
    """
    if not lists_models(kind):
        raise ConfigurationError(f"Agents of the kind {kind} have no list of models to read: declare them by hand.")
    async with _open_host(environ) as host:
        backend = create(kind, options, host)
        try:
            return tuple(await cast("ModelLister", backend).offered_models())
        finally:
            await backend.aclose()


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
        agent = next(agent for agent in declared if agent.name == name)
        backend = create(agent.backend, agent.options, host)
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
