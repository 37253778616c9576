"""Ports of the doctor: an installation before and after its settings are read."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.access.models import Issuer
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.core.diagnosis.models import DatabaseFacts, Declarations, PendingDatabase, SignInSetup
from agentapi_mcp.core.services import ServicesProvider


class ConfiguredInstallation(Protocol):
    """The configured parts of an installation; each method makes a real request to one part.

    Raises:
        AgentApiError: from each method, when the part does not work; the message explains why and what to do.
    """

    @property
    def home(self) -> Path:
        """The directory for data and configuration."""
        ...

    @property
    def database_log(self) -> Path:
        """The log of the embedded database, if there is one."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether the database is configured by URL instead of embedded."""
        ...

    @property
    def is_exposed(self) -> bool:
        """Whether connections to the database leave this machine."""
        ...

    def variable_of(self, field: str) -> str:
        """Name the environment variable that a setting is read from."""
        ...

    def variables(self) -> frozenset[str]:
        """List the environment variables that the settings and the configuration files read."""
        ...

    def configuration_paths(self) -> tuple[Path, ...]:
        """List the configuration files; the last one is the operator's."""
        ...

    def read_configuration(self) -> Declarations:
        """Read the configuration files."""
        ...

    def sign_in(self) -> SignInSetup:
        """Read how people sign in, and whether `serve` would start like this."""
        ...

    async def check_database(self) -> DatabaseFacts | PendingDatabase:
        """Connect to the database and read its facts."""
        ...

    async def check_redis(self) -> timedelta | None:
        """Ask Redis for a write that changes nothing, and return the latency; None if it is not configured."""
        ...

    async def check_issuer(self, issuer: Issuer) -> int:
        """Fetch the keys of an issuer, and return how many there are."""
        ...

    async def check_accounts(self) -> Sequence[str]:
        """Begin to connect an account at every provider of the configuration file, and return their names."""
        ...

    async def check_resource(self, setup: SignInSetup) -> None:
        """Ask the resource URL as a stranger, for its metadata and challenge; an error has the mending line as note."""
        ...

    async def has_unknown_proxy(self) -> bool | None:
        """Ask the running server whether a proxy that it does not trust forwards to it; None if none answers."""
        ...

    async def find_organizations(self, ids: Collection[OrgId]) -> Collection[OrgId]:
        """Return those of the ids that are organisations in the database."""
        ...

    async def check_agents(self) -> Sequence[AgentView]:
        """Check every agent, as the next start would have them, and change nothing."""
        ...

    def open_program(self) -> AbstractAsyncContextManager[ServicesProvider]:
        """Start the program itself, which registers the agents of the configuration files."""
        ...


class Installation(Protocol):
    """A program on a machine."""

    @property
    def program(self) -> str:
        """Version and interpreter, as text."""
        ...

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that the settings are read from."""
        ...

    def configure(self) -> ConfiguredInstallation:
        """Read the settings.

        Raises:
            ConfigurationError: names each variable that is wrong, and why.
        """
        ...
