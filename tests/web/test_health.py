"""Probes without number: the database is asked once a second at most, and once at a time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx2
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.health import health_mount
from agentapi_mcp.web.stopping import Stopping
from tests.conftest import DatabaseUrls
from tests.support.clocks import ManualClock
from tests.support.wires import Wire, open_wire

QUESTIONS = ("FROM pg_roles r", "FROM agentapi.jobs")  # is it there, and how do the jobs fare
MANY = 50


@dataclass
class Probed:
    """A program, the wire to its database, and a prober of it."""

    services: Services
    wire: Wire
    http: httpx2.AsyncClient
    clock: ManualClock
    stopping: Stopping

    async def statuses(self, path: str = "/readyz") -> set[int]:
        """Send many probes at once."""
        async with asyncio.TaskGroup() as group:
            answers = [group.create_task(self.http.get(path)) for _ in range(MANY)]
        return {answer.result().status_code for answer in answers}

    def asked(self) -> list[int]:
        """Count how often each question was asked since the last look."""
        counts = [sum(question in statement for statement in self.wire.statements) for question in QUESTIONS]
        self.wire.statements.clear()
        return counts


@asynccontextmanager
async def probed(urls: DatabaseUrls, home: Path, pool_size: int = 4) -> AsyncGenerator[Probed]:
    async with open_wire(urls.app) as (wire, url):
        settings = Settings(home=home, database_url=SecretStr(url), pool_size=pool_size)
        async with open_app(settings, {}) as app:
            services = await app.services_provider.services()
            clock, stopping = ManualClock(), Stopping()
            mount = health_mount(app.services_provider, stopping, clock.monotonic)
            transport = httpx2.ASGITransport(mount.app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://probe", timeout=25) as http:
                wire.statements.clear()
                yield Probed(services, wire, http, clock, stopping)


async def test_many_probes_ask_the_database_once_a_second(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    async with probed(database_urls, tmp_path) as it:
        assert await it.statuses() == {200}
        first = it.asked()
        assert first[1] == 1
        assert first[0] <= 1  # not at all where a caller was answered a moment ago
        it.clock.advance(timedelta(seconds=0.9))
        assert await it.statuses() == {200}
        assert it.asked() == [0, 0]
        it.clock.advance(timedelta(seconds=0.1))
        assert await it.statuses() == {200}
        assert it.asked()[1] == 1


async def test_whether_the_process_lives_asks_the_database_nothing(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    async with probed(database_urls, tmp_path) as it:
        assert await it.statuses("/healthz") == {200}
        assert it.asked() == [0, 0]


async def test_a_server_that_stops_is_not_ready_at_once(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    async with probed(database_urls, tmp_path) as it:
        assert await it.statuses() == {200}
        it.stopping.begin()
        assert await it.statuses() == {503}


async def test_a_token_and_readiness_are_known_while_one_user_holds_all_other_connections(
    database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    async with probed(database_urls, tmp_path, pool_size=4) as it, asyncio.TaskGroup() as group:
        services = it.services
        made = await services.personal_tokens.create(
            services.principal, "laptop", scopes=("read",), expires_in=timedelta(days=1)
        )
        locked = owner.transaction()
        await locked.start()
        await owner.execute("LOCK TABLE public.chat_sessions IN ACCESS EXCLUSIVE MODE")
        slow = [group.create_task(services.sessions.get(services.principal, str(new_id()))) for _ in range(10)]
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'public.chat_sessions'::regclass AND NOT granted"
        while await owner.fetchval(waiting) < 3:
            pass
        it.clock.advance(timedelta(seconds=1))
        async with asyncio.timeout(25):
            assert (await services.personal_tokens.principal_of(made.secret)).user_id == services.principal.user_id
            assert await it.statuses() == {200}
        assert not any(each.done() for each in slow)
        for each in slow:
            each.cancel()
        await locked.rollback()
    await owner.close()
