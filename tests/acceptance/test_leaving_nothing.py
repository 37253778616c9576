"""What only looks or tries leaves no row behind: the doctor, trials of agents and of clients, prices, help."""

from pathlib import Path

import asyncpg
import pytest

from tests.acceptance.test_agents_add import KEY, OWN, Lister, home_env
from tests.support.command_runs import run_command as run
from tests.support.databases import DatabaseUrls

pytestmark = pytest.mark.acceptance
_TABLES = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text = ANY ($1)"


async def rows(urls: DatabaseUrls) -> dict[str, int]:
    """Count the rows of all tables."""
    connection = await asyncpg.connect(urls.owner)
    try:
        await connection.execute("SET row_security = off")
        names = [row[0] for row in await connection.fetch(_TABLES, ["public", "agentapi"])]
        return {name: await connection.fetchval(f"SELECT count(*) FROM {name}") for name in names}  # noqa: S608  # a table
    finally:
        await connection.close()


async def test_trials_the_doctor_and_help_leave_no_row_and_no_agent(
    database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    file = tmp_path / "agents.toml"
    file.write_text(OWN, encoding="utf-8")
    async with Lister() as peer:
        env = home_env(tmp_path, OPENAI_API_KEY=KEY) | {"AGENTAPI_DATABASE_URL": database_urls.app}
        assert (await run(env, "agents", "list"))[0] == 0
        before = await rows(database_urls)
        assert before["agents"] > 0
        adding = ("agents", "add", "openai", "--base-url", peer.url, "--model", "small")
        for words in (
            ("doctor",),
            ("--help",),
            ("chat", "--help"),
            (*adding, "--dry-run"),
            (*adding, "--yes"),
            ("models", "sync", "openai", "--all", "--yes"),
            ("doctor", "--json"),
            ("agents", "remove", "openai", "--yes"),
            ("connect", "cursor", "--file", str(tmp_path / "mcp.json"), "--env", "AGENTAPI_DATABASE_URL", "--yes"),
        ):
            status, out, err = await run(env, *words)
            assert status == 0 or words[0] == "doctor", (words, out, err)
            # The trial of a client is a start of the server, with a sign-in: who may sign in must not choose its name.
            real = {"agentapi.signals"} if words[0] == "connect" else set[str]()
            after = await rows(database_urls)
            changed = {name for name in before if after[name] != before[name] and "audit_events" not in name} - real
            assert changed == set(), words
            audited = sum(after[name] - before[name] for name in before if "audit_events" in name)
            assert audited <= (words[0] == "connect"), words
    assert "agentapi" in (tmp_path / "mcp.json").read_text(encoding="utf-8")
