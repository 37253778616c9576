"""What the doctor examines: an installation, first without its settings and then by them."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from agentapi_mcp.core.diagnosis.models import DatabaseFacts, Declarations
from agentapi_mcp.core.services import ServicesProvider


class ConfiguredInstallation(Protocol):
    """The parts of an installation as its settings name them; each method asks one part something real.

    Raises:
        AgentApiError: from each method, when the part does not work; the message says why and what to do.
    """

    @property
    def home(self) -> Path:
        """Where data and configuration live."""
        ...

    @property
    def database_log(self) -> Path:
        """The log of the embedded database, if there is one."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether the database is named by an address, and not the embedded one."""
        ...

    @property
    def is_exposed(self) -> bool:
        """Whether what is sent to the database leaves this machine."""
        ...

    def variables(self) -> frozenset[str]:
        """List the environment variables that the settings and the configuration files read."""
        ...

    def configuration_paths(self) -> tuple[Path, ...]:
        """List the configuration files; the last one is where an operator writes."""
        ...

    def read_configuration(self) -> Declarations:
        """Read the configuration files."""
        ...

    async def ask_database(self) -> DatabaseFacts:
        """Open the database and ask what it is."""
        ...

    async def ask_redis(self) -> timedelta | None:
        """Write to Redis, and return how long that took; None where none is set up."""
        ...

    def open_program(self) -> AbstractAsyncContextManager[ServicesProvider]:
        """Open the program itself."""
        ...


class Installation(Protocol):
    """A program on a machine."""

    @property
    def program(self) -> str:
        """Version and interpreter, in words."""
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
