"""Disks that are full or read-only, and ends in mid-work: commands say what to do, and leave nothing half done."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.server.processes import stop_server
from tests.support.command_runs import run_command
from tests.support.databases import Template, created
from tests.support.embedded import SharedHome
from tests.support.home_commands import done, environ, home, other, refused
from tests.support.mounts import NEEDS_MOUNTS, fill_up, mounted_on_itself, small_disk

__all__ = ["home", "other"]  # fixtures
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: it looks for processes of a home"),
]
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@NEEDS_MOUNTS
async def test_a_full_disk_is_told_and_left_as_it_was(home: SharedHome, other: SharedHome, tmp_path: Path) -> None:
    file = tmp_path / "b"
    with small_disk(tmp_path / "small", 64 * 1024) as small:
        fill_up(small)
        for command in ("backup", "export"):
            said = await refused(environ(home), command, str(small / "new"))
            assert "new cannot be written: No space left on device. Nothing is left of it. Free space there" in said
        assert await asyncio.to_thread(os.listdir, small) == ["filler"]
    (home.path / "agentapi.toml").write_text("# mine\n" + "#" * 100_000, encoding="utf-8")
    await done(environ(home), "backup", str(file))
    with small_disk(tmp_path / "small", 64 * 1024) as small:
        fill_up(small)
        env = environ(home, AGENTAPI_CONFIG=str(small / "folder" / "agentapi.toml"))
        said = await refused(env, "restore", str(file), "--replace", "--yes")
        assert "agentapi.toml (No space left on device): make room for it there, or set AGENTAPI_CONFIG" in said
        assert "Nothing was changed." in said
        assert await asyncio.to_thread(os.listdir, small) == ["filler"]
        with small_disk(other.path, 1024 * 1024):
            said = await refused(environ(other), "restore", str(file))
            assert "There is too little space for the embedded database" in said


# What started the tests may ignore them, as nohup does, and the program would inherit that.
ENDED_BY_SIGNALS = (
    "import os, signal, sys; "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); signal.signal(signal.SIGINT, signal.default_int_handler); "
    "os.execv(sys.executable, [sys.executable, '-m', 'agentapi_mcp', *sys.argv[1:]])"
)
READ_ONLY = (
    ("sessions", "list"),
    ("chat", "hello", "--agent", "guide"),
    ("agents", "list"),
    ("reset", "--yes"),
    ("uninstall", "--yes"),
    ("doctor",),
    ("export", "FILE"),
    ("backup", "FILE"),
    ("restore", "BACKUP", "--replace", "--yes"),
    ("move", "--to", "postgresql://nobody@127.0.0.1:1/none", "--yes"),
)


@NEEDS_MOUNTS
@pytest.mark.timeout(300)  # it runs a dozen commands
async def test_a_home_that_is_read_only_is_told_by_every_command(home: SharedHome, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    await done(environ(home), "backup", str(backup))
    await asyncio.to_thread(stop_server, str(home.data), 30)
    before = home.listing()
    with mounted_on_itself(home.path, read_only=True):
        for words in READ_ONLY:
            names = {"FILE": str(tmp_path / "new"), "BACKUP": str(backup)}
            ran = await run_command(environ(home), *(names.get(word, word) for word in words))
            assert ran.status not in {0, 70}, (words, ran)
            assert "Traceback" not in ran.err, (words, ran)
            said = ran.out + ran.err
            assert "AGENTAPI_HOME" in said or "is read-only, or another user's" in said, (words, ran)
    assert home.listing() == before
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["backup"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
async def test_a_backup_that_is_ended_leaves_nothing(number: signal.Signals, home: SharedHome, tmp_path: Path) -> None:
    status = await ended(number, home, "ACCESS EXCLUSIVE", "backup", str(tmp_path / "b"))
    assert status == (-number if number is signal.SIGKILL else 128 + number)
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_a_move_that_is_ended_leaves_nothing(home: SharedHome, template: Template) -> None:
    async with created(template.admin, "OWNER agentapi_owner") as name:
        url = template.owner.replace(f"/{template.name}?", f"/{name}?")
        words = ("move", "--to", url, "--yes")
        connection = await asyncpg.connect(url, server_settings={"application_name": "psql"})
        try:
            assert await ended(signal.SIGTERM, home, "ROW EXCLUSIVE", *words) == 128 + signal.SIGTERM
            assert await connection.fetchval("SELECT to_regnamespace('agentapi')") is None
        finally:
            await connection.close()


async def ended(number: signal.Signals, home: SharedHome, mode: str, *words: str) -> int:
    """Run a command, and end it while it waits for a table; return its status."""
    postgres = EmbeddedPostgres(home.path)
    url = (await asyncio.to_thread(postgres.ensure)).owner_url
    connection, watching = await asyncpg.connect(url), await asyncpg.connect(url)
    await asyncio.to_thread(postgres.release)
    try:
        for each in (connection, watching):
            await each.execute("SET application_name = 'psql'")
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE public.profiles IN {mode} MODE")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", ENDED_BY_SIGNALS, *words),
                env=environ(home, PYTHONPATH=":".join(sys.path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            while not await watching.fetchval(WAITS):
                assert process.returncode is None
            process.send_signal(number)
            return await process.wait()
    finally:
        await connection.close()
        await watching.close()
