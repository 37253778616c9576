"""A provider and a database behind wires that break, on which programs are opened, for tests of the engine of turns."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.support.databases import DatabaseUrls
from tests.support.peers.openai import OpenAIPeer
from tests.support.wires import Wire, open_wire

LONG, NOW = timedelta(seconds=25), timedelta(0)
SHORT_LEASE = timedelta(seconds=0.5)
# As long as no test lasts: a process with this lease never settles a turn because of its lease.
LONG_LEASE = timedelta(minutes=30)


@dataclass
class World:
    """A provider and a database, on which programs are opened, and a connection of the owner of its tables."""

    peer: OpenAIPeer
    steps: Steps
    urls: DatabaseUrls
    owner: "asyncpg.Connection[asyncpg.Record]"
    home: Path
    stack: AsyncExitStack

    async def answered(self, server: Services, request: ChatRequest) -> Turn:
        """Send a message, and receive its answer."""
        turn = await server.turns.chat(server.principal, request, wait=LONG)
        server.turns.delivered(turn)
        return turn

    async def program(
        self,
        url: str | None = None,
        *,
        clock: Clock | None = None,
        capacities: Mapping[Resource, int] | None = None,
        **options: timedelta | int,
    ) -> Services:
        """Open a process's worth of the program, with these options of the engine."""
        often = replace(TurnRunnerOptions(), renew_every=timedelta(seconds=0.1), renew_again=timedelta(seconds=0.1))
        chosen = replace(often, **options)
        settings = Settings(home=self.home / uuid4().hex, database_url=SecretStr(url or self.urls.app), pool_size=8)
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": self.peer.openrouter_url}
        opening = AppOptions(run_options=chosen, capacities=capacities or {})
        app = await self.stack.enter_async_context(open_app(settings, environ, clock=clock, options=opening))
        return await app.services_provider.services()

    async def wire(self) -> tuple[Wire, str]:
        """Open a wire to the database."""
        return await self.stack.enter_async_context(open_wire(self.urls.app))

    async def until(self, condition: str, *given: object) -> None:
        """Wait until a turn fulfils a condition in the database."""
        statement = f"SELECT EXISTS (SELECT FROM agentapi.turns WHERE {condition})"  # noqa: S608  # a literal of the test
        async with asyncio.timeout(25):
            while not await self.owner.fetchval(statement, *given):
                pass

    async def keeps_waiting(self) -> None:
        """Wait until somebody waits for what this connection has locked."""
        statement = "SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
        async with asyncio.timeout(25):
            while not await self.owner.fetchval(statement):
                pass

    async def turns(self) -> int:
        """Count the turns."""
        return await self.owner.fetchval("SELECT count(*) FROM agentapi.turns")


@asynccontextmanager
async def open_world(urls: DatabaseUrls, home: Path) -> AsyncGenerator[World]:
    """Open one; programs that are left open end with it."""
    steps = Steps()
    owner = await asyncpg.connect(urls.owner)
    await owner.execute("SET row_security = off")
    try:
        async with OpenAIPeer(pace=steps) as peer, AsyncExitStack() as stack:
            yield World(peer, steps, urls, owner, home, stack)
    finally:
        await owner.close()


def asks(words: str = "", **given: object) -> ChatRequest:
    """Ask `droid` something that no other test asks; with [[slow]] each piece waits for a step."""
    return ChatRequest(message=f"{uuid4()} {words}", agent="droid", **given)  # type: ignore[arg-type]  # as the class says


@asynccontextmanager
async def begun(server: Services, request: ChatRequest) -> AsyncGenerator[asyncio.Task[Turn]]:
    """Send a message in a task of its own."""
    async with asyncio.TaskGroup() as group:
        yield group.create_task(server.turns.chat(server.principal, request, wait=LONG))


SLOW = "[[slow]] [[chunks2]]"
