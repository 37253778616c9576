"""This installation of the program, as the doctor examines it."""

import platform
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from typing_extensions import override

from agentapi_mcp.app.database import home_of, open_store
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.backends.registry import names
from agentapi_mcp.base.addresses import host_and_port
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.errors import AgentApiError, StoreUnavailableError
from agentapi_mcp.core.diagnosis.doctor import Doctor
from agentapi_mcp.core.diagnosis.models import DatabaseFacts, Declarations
from agentapi_mcp.core.diagnosis.ports import ConfiguredInstallation
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.settings import VERSION, Settings, load_settings, variable_of
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, catalogue_paths, load_catalogue, named_variables
from agentapi_mcp.stores.postgres.diagnosis import read_facts

_REDIS_PORT = 6379


@dataclass(frozen=True, slots=True)
class ThisInstallation:
    """This program, before its settings are read."""

    environ: Mapping[str, str]
    clock: Clock
    load: Callable[[], Settings] = load_settings

    @property
    def program(self) -> str:
        """Describe the version and the interpreter."""
        return (
            f"agentapi-mcp {VERSION} on {platform.python_implementation()} {platform.python_version()}, "
            f"{sys.executable}"
        )

    def configure(self) -> "ThisConfiguration":
        """Read the settings."""
        return ThisConfiguration(self.load(), self.environ, self.clock)


@dataclass(frozen=True, slots=True)
class ThisConfiguration(ConfiguredInstallation):
    """This program with its settings."""

    settings: Settings
    environ: Mapping[str, str]
    clock: Clock

    @property
    @override
    def home(self) -> Path:
        return home_of(self.settings, self.environ)

    @property
    @override
    def database_log(self) -> Path:
        return self.home / "pg18" / "pg.log"

    @property
    @override
    def is_remote(self) -> bool:
        return self.settings.database_url is not None

    @property
    @override
    def is_exposed(self) -> bool:
        if self.settings.database_url is None:
            return False
        host = urlsplit(self.settings.database_url.get_secret_value()).hostname
        if not host or host == "localhost":
            return False
        try:
            return not ip_address(host).is_loopback
        except ValueError:
            return True

    @override
    def variable_of(self, field: str) -> str:
        return variable_of(field, self.environ)

    @override
    def variables(self) -> frozenset[str]:
        try:
            paths = self.configuration_paths()
        except AgentApiError:  # the check of the configuration reports it
            paths = ()
        settings = (f"AGENTAPI_{name.upper()}" for name in Settings.model_fields)
        return frozenset({*settings, *named_variables((*paths, DEFAULTS))})

    @override
    def configuration_paths(self) -> tuple[Path, ...]:
        return catalogue_paths(self.settings.config, self.home)

    @override
    def read_configuration(self) -> Declarations:
        """Read the configuration files, and find which agents are unchanged from the packaged defaults."""
        paths = self.configuration_paths()
        agents = {agent.name: agent for agent in load_catalogue(paths, self.environ, names).agents}
        offered = load_catalogue([DEFAULTS], self.environ, names).agents
        return Declarations(
            own_files=tuple(str(path) for path in paths if path != DEFAULTS),
            agents=agents,
            packaged=frozenset(agent.name for agent in offered if agent == agents.get(agent.name)),
        )

    @override
    async def check_database(self) -> DatabaseFacts:
        async with AsyncExitStack() as stack:
            database, _ = await open_store(stack, self.settings, self.environ)
            return await read_facts(database, self.clock)

    @override
    async def check_redis(self) -> timedelta | None:
        settings = self.settings
        if settings.redis_url is None:
            return None
        # By name, so that a laptop without Redis does not pay for the import.
        redis = import_module("agentapi_mcp.stores.redis")
        url, variable = settings.redis_url.get_secret_value(), self.variable_of("redis_url")
        async with redis.open_redis(url, settings.redis_prefix, self.clock, variable) as client:
            begun = self.clock.monotonic()
            try:
                await client.probe()
            except StoreUnavailableError as exc:
                place = host_and_port(url, _REDIS_PORT)
                exc.add_note(f"Start it, or correct {variable}{f' (it names {place})' if place else ''}.")
                raise
            return timedelta(seconds=self.clock.monotonic() - begun)

    @asynccontextmanager
    @override
    async def open_program(self) -> AsyncGenerator[ServicesProvider]:
        async with open_app(self.settings, self.environ) as app:
            yield app.services_provider


def create_doctor(environ: Mapping[str, str]) -> Doctor:
    """Build the doctor of this installation."""
    clock = SystemClock()
    return Doctor(ThisInstallation(environ, clock), clock)
