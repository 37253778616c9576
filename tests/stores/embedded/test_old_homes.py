"""Homes whose database was made before the first release: the next command carries them over, or says what differs."""

import asyncio
import os
from datetime import timedelta

import asyncpg
import pytest

from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from tests.support.command_runs import CommandRun, run_command
from tests.support.embedded import SharedHome
from tests.support.schema_dump import FIXTURES

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(60)]

ROLES = """
CREATE ROLE anon NOLOGIN NOINHERIT;
CREATE ROLE authenticated NOLOGIN NOINHERIT;
CREATE ROLE service_role NOLOGIN NOINHERIT;
CREATE ROLE agentapi_system NOLOGIN NOINHERIT;
CREATE ROLE agentapi_writer NOLOGIN NOINHERIT;
GRANT authenticated, agentapi_system, agentapi_writer TO agentapi_owner, agentapi_app;
"""


async def run(home: SharedHome, *words: str) -> CommandRun:
    """Run a command on a home."""
    environ = {"PATH": os.defpath, "AGENTAPI_HOME": str(home.path), "AGENTAPI_POSTGRES_LINGER_SECONDS": "60"}
    return await run_command(environ, *words)


async def restore(home: SharedHome, change: str = "SELECT 1") -> None:
    """Make a home as the last development version before the first release left it, and change it."""
    postgres = EmbeddedPostgres(home.path, linger=timedelta(seconds=60))
    urls = await asyncio.to_thread(postgres.ensure)
    dump = await asyncio.to_thread((FIXTURES / "old_own.sql").read_text, encoding="utf-8")
    owner = await asyncpg.connect(urls.owner_url)
    admin = await asyncpg.connect(urls.owner_url.replace("agentapi_owner@", "postgres@"))
    try:
        await owner.execute(ROLES)
        await admin.execute(dump)
        await admin.execute(change)
    finally:
        await owner.close()
        await admin.close()
        await asyncio.to_thread(postgres.release)


async def test_the_next_command_carries_an_old_home_over(home: SharedHome) -> None:
    await restore(home)
    status, out, err = await run(home, "sessions", "list")
    assert status == 0, err
    assert "How do I add OpenRouter?" in out
    _, out, _ = await run(home, "migrate", "--status")
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == [migration.id for migration in migrations()]
    status, out, err = await run(home, "chat", "--agent", "guide", "--continue", "what is a turn?")
    assert status == 0, err
    _, out, _ = await run(home, "tokens", "list")
    assert "ci" in out


async def test_an_old_home_that_differs_is_refused_and_left_as_it_was(home: SharedHome) -> None:
    await restore(home, "ALTER TABLE agentapi.turns ADD note text; DROP INDEX agentapi.turns_agent")
    for words in (("sessions", "list"), ("migrate",), ("migrate", "--dry-run")):
        status, out, err = await run(home, *words)
        assert (status, out) == (3, "")
        assert "column agentapi.turns.note is not of this schema" in err
        assert "index agentapi.turns_agent on agentapi.turns is missing" in err
    _, out, _ = await run(home, "migrate", "--status")
    assert "0016_nets" in out
