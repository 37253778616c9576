"""What a shell may complete: names of agents and models, and sessions, if the database is there already."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from agentapi_mcp.app.build import find_operator
from agentapi_mcp.app.database import open_unchanged_store
from agentapi_mcp.app.home import home_of
from agentapi_mcp.app.providers import declared_agents
from agentapi_mcp.core.catalogue.models import AgentDeclaration
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.server.paths import Home
from agentapi_mcp.stores.postgres.sessions import PostgresSessions

_NEWEST = 50


def agents(settings: Settings, environ: Mapping[str, str]) -> Sequence[AgentDeclaration]:
    """Return the agents that the configuration files declare.

    Raises:
        ConfigurationError: a file is unreadable or wrong.
    """
    return list(declared_agents(settings, environ).values())


def newest_sessions(settings: Settings, environ: Mapping[str, str], within: float) -> Sequence[Session]:
    """Return the newest sessions of the local user; none where an embedded database would have to be started. Blocks.

    Raises:
        ConfigurationError: the settings name somebody who is not in the database.
        StoreError: the database cannot be used.
        TimeoutError: it took longer than `within` seconds.
    """
    return asyncio.run(asyncio.wait_for(_read(settings, environ), within))


async def _read(settings: Settings, environ: Mapping[str, str]) -> Sequence[Session]:
    if settings.database_url is None and not _answers(Home(home_of(settings, environ)).socket):
        return ()
    async with open_unchanged_store(settings, environ) as database:
        if database is None:
            return ()
        operator = await find_operator(settings, PostgresProfiles(database), {})
        if operator is None:
            return ()
        page = await PostgresSessions(database).list_(operator, agent=None, query=None, cursor=None, limit=_NEWEST)
        return page.items


def _answers(path: Path) -> bool:
    """Whether a server listens at a Unix socket."""
    with closing(socket.socket(socket.AF_UNIX)) as tried:
        tried.settimeout(0.1)
        try:
            tried.connect(str(path))
        except OSError:
            return False
    return True
