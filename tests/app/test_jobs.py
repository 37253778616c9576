"""The periodic jobs of a running program, over a database of its own."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from typing_extensions import override

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.health import health_out
from agentapi_mcp.settings import Settings
from tests.conftest import DatabaseUrls

PAGE = Path(__file__).resolve().parents[2] / "docs" / "design" / "jobs.md"
JOBS = {
    "idempotency_keys",
    "mcp_sessions",
    "key_requests",
    "invitations",
    "signals",
    "tasks",
    "audit_partitions",
    "session_openings",
}
ENDED = "SELECT name FROM agentapi.jobs WHERE last_ended_at IS NOT NULL"


class QuickClock(SystemClock):
    """Time as it is, in which waiting is a hundred times shorter."""

    @override
    async def sleep(self, duration: timedelta) -> None:
        """Wait less."""
        await super().sleep(duration / 100)


@pytest.fixture
async def owner(own_database: DatabaseUrls) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(own_database.owner)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def program(urls: DatabaseUrls, home: Path) -> AsyncGenerator[Services]:
    """Open a program on a database."""
    settings = Settings.model_validate({"home": home, "database_url": urls.app, "shutdown_grace_seconds": 0})
    async with open_app(settings, {}, clock=QuickClock()) as app:
        yield await app.services_provider.services()


async def ended(owner: "asyncpg.Connection[asyncpg.Record]") -> set[str]:
    """Wait until every job has run, and return their names."""
    while len(names := {row["name"] for row in await owner.fetch(ENDED)}) < len(JOBS):
        pass
    return names


async def health(services: Services) -> tuple[str, HealthStatus, str]:
    """Return the status of the server, and status and detail of its jobs."""
    report = await services.health.report(services.principal)
    part = next(part for part in report.parts if part.name == "jobs")
    return health_out(report).status, part.status, part.detail


async def test_every_job_runs_soon_after_the_start(
    own_database: DatabaseUrls, owner: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await owner.execute(
        "INSERT INTO agentapi.idempotency_keys (user_id, org_id, key, fingerprint, turn_id, expires_at) "
        "VALUES (gen_random_uuid(), gen_random_uuid(), 'k', '', gen_random_uuid(), now() - interval '1 second')"
    )
    async with program(own_database, tmp_path) as services:
        assert await ended(owner) == JOBS
        assert await owner.fetchval("SELECT count(*) FROM agentapi.idempotency_keys") == 0
        assert await owner.fetch("SELECT name FROM agentapi.jobs WHERE consecutive_failures > 0") == []
        assert await health(services) == ("healthy", HealthStatus.HEALTHY, "periodic work")


async def test_a_failed_job_degrades_health_and_the_server_stays_ready(
    own_database: DatabaseUrls, owner: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await owner.execute("REVOKE EXECUTE ON FUNCTION agentapi.keep_partitions(timestamptz) FROM agentapi_system")
    async with program(own_database, tmp_path) as services:
        await ended(owner)
        server, jobs, detail = await health(services)
        assert (server, jobs) == ("degraded", HealthStatus.DEGRADED)
        assert re.fullmatch(r"periodic work; the job audit_partitions \(.+\) failed; the server's log .+", detail)
        assert await services.health.is_ready()


def test_the_page_lists_every_job() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)) == JOBS
