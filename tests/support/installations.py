"""An installation of which the test says what its parts answer."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.access.models import Issuer
from agentapi_mcp.core.catalogue.models import AgentView
from agentapi_mcp.core.diagnosis.models import DatabaseFacts, Declarations, PendingDatabase, SignInSetup
from agentapi_mcp.core.services import ServicesProvider

T = TypeVar("T")
WELL = DatabaseFacts(
    version="18.1", is_standby=False, is_encrypted=True, latency=timedelta(milliseconds=2), remark=None
)


@dataclass
class FakeInstallation:
    """One that works by a database elsewhere; an error in place of an answer is raised.

    A `database` of None never answers. `asked` lists the parts that were asked, in order.
    """

    home: Path
    database: DatabaseFacts | PendingDatabase | AgentApiError | None = WELL
    is_remote: bool = True
    is_exposed: bool = True
    redis: AgentApiError | timedelta | None = None
    configuration: AgentApiError | None = None
    setup: SignInSetup = field(default_factory=SignInSetup)
    issuer: AgentApiError | int = 1
    resource: AgentApiError | None = None
    unknown_proxy: AgentApiError | bool | None = None
    organizations: AgentApiError | frozenset[OrgId] = frozenset()
    asks_agents: bool = True
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    asked: list[str] = field(default_factory=list[str])

    program = "agentapi-mcp of a test"

    @property
    def database_log(self) -> Path:
        """A log, which is there where the test has written one."""
        return self.home / "pg.log"

    def configure(self) -> "FakeInstallation":
        """Return itself."""
        return self

    def variable_of(self, field: str) -> str:
        """Name the variable without a second name."""
        return f"AGENTAPI_{field.upper()}"

    def variables(self) -> frozenset[str]:
        """List one setting."""
        return frozenset({"AGENTAPI_HOME"})

    def configuration_paths(self) -> tuple[Path, ...]:
        """List one file."""
        return (self.home / "agentapi.toml",)

    def read_configuration(self) -> Declarations:
        """Declare nothing."""
        if self.configuration is not None:
            raise self.configuration
        return Declarations(own_files=(), agents={}, packaged=frozenset())

    def sign_in(self) -> SignInSetup:
        """Answer what the test gave."""
        return self.setup

    async def check_database(self) -> DatabaseFacts | PendingDatabase:
        """Answer what the test gave."""
        self.asked.append("database")
        if isinstance(self.database, AgentApiError):
            raise self.database
        if self.database is None:
            await asyncio.Event().wait()
        return self.database or WELL

    async def check_redis(self) -> timedelta | None:
        """Answer what the test gave."""
        self.asked.append("redis")
        if isinstance(self.redis, AgentApiError):
            raise self.redis
        return self.redis

    async def check_issuer(self, issuer: Issuer) -> int:
        """Answer what the test gave."""
        self.asked.append(issuer.issuer)
        return _given(self.issuer)

    async def check_accounts(self) -> Sequence[str]:
        """Declare none."""
        return ()

    async def check_resource(self, setup: SignInSetup) -> None:
        """Answer what the test gave."""
        self.asked.append(str(setup.resource_url))
        return _given(self.resource)

    async def has_unknown_proxy(self) -> bool | None:
        """Answer what the test gave."""
        return _given(self.unknown_proxy)

    async def find_organizations(self, ids: Collection[OrgId]) -> Collection[OrgId]:
        """Answer what the test gave."""
        self.asked.append("organizations")
        return _given(self.organizations) & frozenset(ids)

    async def check_agents(self) -> Sequence[AgentView]:
        """Tell of none; a test that expects not to get so far is failed."""
        self.asked.append("agents")
        assert not self.asks_agents, "the agents were asked"
        return ()

    @asynccontextmanager
    async def open_program(self) -> AsyncGenerator[ServicesProvider]:
        """Refuse: the agents are asked of a real program only."""
        self.asked.append("program")
        raise AssertionError("the program was opened")
        yield  # it is a generator


def _given(answer: T | AgentApiError) -> T:
    if isinstance(answer, AgentApiError):
        raise answer
    return answer
