"""Back up, restore, move, reset and uninstall, as they are typed, on databases that are really there."""

import asyncio
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.auth.master_keys import new_master_key, parse_keys
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.home_names import CHAT_HISTORY
from agentapi_mcp.cli.consent import size
from agentapi_mcp.core.keys.models import key_place
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.server.processes import stop_server
from tests.conftest import DatabaseUrls
from tests.support.command_runs import run_command
from tests.support.databases import Template, created
from tests.support.embedded import SharedHome
from tests.support.filled import ORG, OTHER, USER
from tests.support.home_commands import done, environ, home, other, refused
from tests.support.mounts import NEEDS_MOUNTS, mounted_on_itself
from tests.support.terminals import terminal

__all__ = ["home", "other"]  # fixtures
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: it looks for processes of a home"),
]
_OF_ITS_END = re.compile(rb"turn_ended|\tran on\t")
PASSPHRASE = b"correct horse battery staple\n"


def used(path: Path) -> int:
    """Return what du(1) says that a directory takes, in bytes."""
    ran = subprocess.run(["du", "-s", "--block-size=1", path], capture_output=True, check=True)  # noqa: S603, S607  # ours
    return int(ran.stdout.split()[0])


def rows_of(backup: Path) -> dict[str, list[bytes]]:
    """Return the rows of each table, in an order that does not depend on how they are stored."""
    with zipfile.ZipFile(backup) as archive:
        names = [name for name in archive.namelist() if name.startswith("tables/")]
        assert len(names) > 15
        rows = {name: archive.read(name).splitlines() for name in names}
    # All but the turn that ran, and what is recorded of its end: audit event, entry of the ledger, sums of its day, and
    # those of its person, who has no other turns.
    ended = [row.split(b"\t") for row in rows["tables/agentapi.usage_daily"] if _OF_ITS_END.search(row)]
    persons = rows["tables/agentapi.usage_daily_of_persons"]
    rows["tables/agentapi.usage_daily_of_persons"] = [
        row for row in persons if row.split(b"\t")[1:4] not in [day[:3] for day in ended]
    ]
    return {
        name: sorted(row for row in lines if not row.startswith(OTHER.encode()) and not _OF_ITS_END.search(row))
        for name, lines in rows.items()
    }


async def test_a_backup_comes_back_in_another_home_as_it_was(
    home: SharedHome, other: SharedHome, tmp_path: Path
) -> None:
    (home.path / "agentapi.toml").write_text("# mine\n", encoding="utf-8")
    first, second = tmp_path / "first", tmp_path / "second"
    said = await done(environ(home), "backup", str(first))
    assert "1 session, 2 messages, 2 turns, 2 users" in said.out
    assert "The master key is not in it, without which 2 sealed keys and 1 sealed account cannot be opened" in said.err
    assert first.stat().st_mode & 0o777 == 0o600
    told = (await done(environ(other), "restore", str(first))).out
    assert "Restored what was there on" in told
    assert "agentapi.toml.\nIt says which programs and servers agents run" in told
    assert (other.path / "agentapi.toml").read_text(encoding="utf-8") == "# mine\n"
    await done(environ(other), "backup", str(second))
    assert rows_of(second) == rows_of(first)
    # A turn that ran when the backup was made is ended, and none is asked twice.
    # When it ended there, and how long it took, nobody here can know.
    shown = (await done(environ(other), "turns", "show", OTHER)).out
    assert "interrupted" in shown
    assert "\nended, at an unknown time; found so: 2" in shown
    listed = (await done(environ(other), "turns", "list")).out.splitlines()
    (row,) = [line.split("\t") for line in listed if line.startswith(OTHER)]
    assert row[listed[0].split("\t").index("TOOK (S)")] == ""
    assert json.loads((await done(environ(other), "turns", "show", OTHER, "--json")).out)["latency_ms"] is None
    (other.path / "agentapi.toml").write_text("# another\n", encoding="utf-8")
    again = await done(environ(other), "restore", str(first), "--replace", "--yes")
    assert f"{other.path / 'agentapi.toml'} was kept" in again.err
    assert (other.path / "agentapi.toml").read_text(encoding="utf-8") == "# another\n"


async def test_a_backup_needs_no_pause_and_a_restore_waits_for_nobody(home: SharedHome, tmp_path: Path) -> None:
    file = tmp_path / "b"
    server = EmbeddedPostgres(home.path)
    await asyncio.to_thread(server.ensure)  # as a server or a client that runs
    try:
        await done(environ(home), "backup", str(file))
        for words in (("restore", str(file), "--replace", "--yes"), ("reset", "--yes"), ("uninstall", "--yes")):
            assert "end `serve`, quit the clients" in await refused(environ(home), *words)
        assert "end `serve`" in await refused(environ(home), "move", "--to", "postgresql://nobody@/none", "--yes")
    finally:
        await asyncio.to_thread(server.release)
    assert "1 session" in (await done(environ(home), "restore", str(file), "--replace", "--yes")).out


async def test_what_is_there_is_replaced_only_if_that_is_said_and_agreed(home: SharedHome, tmp_path: Path) -> None:
    file = tmp_path / "b"
    await done(environ(home), "backup", str(file))
    said = await refused(environ(home), "restore", str(file))
    assert f"In the embedded database in {home.path}: 1 session, 2 messages" in said
    assert "--replace" in said
    assert "say --yes" in await refused(environ(home), "restore", str(file), "--replace")
    assert "say --yes" in await refused(environ(home), "backup", str(file))
    with terminal(environ(home), "restore", str(file), "--replace") as person:
        person.until("Go on? [y/N]:")
        person.type("n\r")
        assert person.leave() == 1
    await done(environ(home), "backup", str(file), "--yes")
    with terminal(environ(home), "restore", str(file), "--replace") as person:
        person.until("All of it will go")
        person.type("y\r")
        person.until("Restored what was there on")
        assert person.leave() == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "is no backup"), (b"text\n", "is no backup"), ("cut", "is cut off or damaged")],
)
async def test_a_file_that_is_no_whole_backup_changes_nothing(
    content: bytes | str | None, said: str, home: SharedHome, other: SharedHome, tmp_path: Path
) -> None:
    file = tmp_path / "b"
    if content == "cut":
        await done(environ(home), "backup", str(file))
        content = file.read_bytes()[:5000]
    if isinstance(content, bytes):
        file.write_bytes(content)
    assert said in await refused(environ(other), "restore", str(file))
    assert not other.path.exists()


async def test_a_backup_of_a_newer_program_is_refused_in_words(
    home: SharedHome, other: SharedHome, tmp_path: Path
) -> None:
    file = tmp_path / "b"
    postgres = EmbeddedPostgres(home.path)
    connection = await asyncpg.connect((await asyncio.to_thread(postgres.ensure)).owner_url)
    await connection.execute("INSERT INTO agentapi.migrations (id, sha256, needs) VALUES ('0999_later', 'x', '0.1.0')")
    await connection.close()
    await asyncio.to_thread(postgres.release)
    await done(environ(home), "backup", str(file))
    assert "upgrade, then restore it" in await refused(environ(other), "restore", str(file))
    assert not other.path.exists()


async def test_a_full_disk_and_a_place_that_cannot_be_written_leave_nothing(home: SharedHome, tmp_path: Path) -> None:
    file = tmp_path / "b"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    await done(environ(home), "sessions", "list")  # the database's own files are there
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, {before[1]}))\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{program}from agentapi_mcp.__main__ import main; main()", "backup", str(file)),
        env=environ(home, PYTHONPATH=":".join(sys.path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 2, err
    assert b"b cannot be written: File too large. Nothing is left of it." in err
    assert "No such file or directory" in await refused(environ(home), "backup", str(tmp_path / "there" / "b"))
    assert not await asyncio.to_thread(os.listdir, tmp_path)


async def test_there_is_nothing_to_back_up_in_a_new_home(other: SharedHome, tmp_path: Path) -> None:
    assert "There is nothing to back up" in await refused(environ(other), "backup", str(tmp_path / "b"))
    assert not other.path.exists()
    assert "There is nothing to move" in await refused(environ(other), "move", "--to", "postgresql://x@/y", "--yes")
    assert "There is nothing in" in (await done(environ(other), "reset", "--yes")).out


async def sealed(home: SharedHome, keys: str) -> None:
    """Seal the key `mine` with the first of these master keys."""
    sealer = AesGcmSealer(parse_keys(keys, "the test"))
    postgres = EmbeddedPostgres(home.path)
    connection = await asyncpg.connect((await asyncio.to_thread(postgres.ensure)).owner_url)
    try:
        secret = sealer.seal("sk-mine", key_place(ORG, USER, USER, "openrouter", None))
        await connection.execute("SET row_security = off")
        await connection.execute("UPDATE agentapi.user_api_keys SET sealed_key = $1 WHERE name = 'mine'", secret)
    finally:
        await connection.close()
        await asyncio.to_thread(postgres.release)


async def test_master_keys_travel_sealed_and_lost_ones_are_named(
    home: SharedHome, other: SharedHome, tmp_path: Path
) -> None:
    file, keys = tmp_path / "b", tmp_path / "keys"
    env = environ(home, AGENTAPI_MASTER_KEY=f"new:{new_master_key()}")
    await sealed(home, env["AGENTAPI_MASTER_KEY"])
    assert "AGENTAPI_MASTER_KEY is not set" in await refused(
        environ(home), "backup", str(file), "--with-keys", stdin=PASSPHRASE
    )
    assert "needs 12 characters" in await refused(env, "backup", str(file), "--with-keys", stdin=b"short\n")
    assert not await asyncio.to_thread(os.listdir, tmp_path)
    await done(env, "backup", str(file), "--with-keys", stdin=PASSPHRASE)
    master = env["AGENTAPI_MASTER_KEY"].encode()
    with zipfile.ZipFile(file) as archive:
        assert all(master[-20:] not in archive.read(name) for name in archive.namelist())
    lost = await done(environ(other), "restore", str(file))
    assert "No master key here opens 2 sealed keys and 1 sealed account:" in lost.err
    assert "the key 'mine' for openrouter, of ann@example.com (master key 'new')" in lost.err
    assert "the key 'ours' for openai, of the organization Ours (master key 'old')" in lost.err
    assert "the account 'calendar' for calendar, of ann@example.com" in lost.err
    assert "--keys-to" in lost.err
    words = ("restore", str(file), "--replace", "--yes", "--keys-to", str(keys))
    assert "does not open" in await refused(environ(other), *words, stdin=b"another passphrase\n")
    assert not keys.exists()
    nowhere = (*words[:-1], str(tmp_path / "nowhere" / "keys"))
    assert "name a new file for the master keys elsewhere" in await refused(environ(other), *nowhere, stdin=PASSPHRASE)
    found = await done(environ(other), *words, "--json", stdin=PASSPHRASE)
    assert sorted(each["name"] for each in json.loads(found.out)["lost"]) == ["calendar", "ours"]
    assert keys.read_bytes() == master + b"\n"
    assert keys.stat().st_mode & 0o777 == 0o600
    assert "is there already" in await refused(environ(other), *words, stdin=PASSPHRASE)
    await done(environ(home), "backup", str(file), "--yes")
    words = ("restore", str(file), "--replace", "--yes", "--keys-to", str(tmp_path / "none"))
    assert "made without --with-keys" in await refused(environ(other), *words, stdin=PASSPHRASE)


async def test_all_moves_to_an_own_postgres_and_back(
    home: SharedHome, other: SharedHome, template: Template, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    await done(environ(home), "backup", str(first))
    async with created(template.admin, "OWNER agentapi_owner") as name:
        urls = DatabaseUrls(*(url.replace(f"/{template.name}?", f"/{name}?") for url in (template.owner, template.app)))
        words = ("move", "--to", urls.owner, "--grant-to", "agentapi_app")
        assert "say --yes" in await refused(environ(home), *words)
        moved = await done(environ(home), *words, "--yes")
        assert "Moved: 1 session, 2 messages" in moved.out
        assert "AGENTAPI_DATABASE_URL" in moved.out
        assert "the key 'mine' for openrouter, of ann@example.com" in moved.err
        there = environ(home, AGENTAPI_DATABASE_URL=urls.app, AGENTAPI_MIGRATE_DATABASE_URL=urls.owner)
        await done(there, "backup", str(second))
        assert rows_of(second) == rows_of(first)
        assert "that database already" in await refused(environ(home), *words, "--yes")
        listed = json.loads((await done(there, "sessions", "list", "--json")).out)["sessions"]
        assert [session["session_id"] for session in listed] == [USER]
        await done(environ(other), "restore", str(second))
        await done(environ(other), "backup", str(third))
        assert rows_of(third) == rows_of(first)
        assert "Removed: 1 session" in (await done(there, "reset", "--yes")).out
        assert "There is nothing" in (await done(there, "reset", "--yes")).out
        assert "There is nothing to back up" in await refused(there, "backup", str(first), "--yes")
        await done(there, "restore", str(third))
        await done(there, "sessions", "list")
    # What was moved is still there.
    await done(environ(home), "backup", str(second), "--yes")
    assert rows_of(second)["tables/public.chat_messages"] == rows_of(first)["tables/public.chat_messages"]


@pytest.mark.parametrize("url", ["nonsense", "postgresql://x@127.0.0.1:1/none", "postgresql://x:y@[bad/none"])
async def test_an_address_that_is_none_is_told(url: str, home: SharedHome) -> None:
    assert "--to" in await refused(environ(home), "move", "--to", url, "--yes")


async def test_a_reset_says_what_goes_and_leaves_the_configuration(home: SharedHome) -> None:
    (home.path / "agentapi.toml").write_text("# mine\n", encoding="utf-8")
    said = await refused(environ(home), "reset")
    assert f"In the embedded database in {home.path}: 1 session, 2 messages" in said
    assert "on disk. All of it will go, for good." in said
    gone = json.loads((await done(environ(home), "reset", "--yes", "--json")).out)
    assert (gone["removed"], gone["rows"]["public.chat_messages"]) == (True, 2)
    assert gone["bytes"] > 1_000_000
    assert (await done(environ(home), "sessions", "list")).out == ""
    assert (home.path / "agentapi.toml").read_text(encoding="utf-8") == "# mine\n"
    assert list(home.path.glob("pg18/new-*")) == []


async def test_a_database_that_does_not_start_can_be_reset(home: SharedHome) -> None:
    await asyncio.to_thread(stop_server, str(home.data), 30)
    (home.data / "global" / "pg_control").unlink()
    said = await done(environ(home), "reset", "--yes")
    assert "What is in it cannot be read: The embedded database in" in said.err
    assert (await done(environ(home), "sessions", "list")).out == ""


async def test_an_uninstallation_says_what_goes_and_leaves_what_is_the_users(home: SharedHome, tmp_path: Path) -> None:
    env = environ(home)
    cursor = home.path.parent / ".cursor" / "mcp.json"
    cursor.parent.mkdir()
    theirs = '{"mcpServers": {"theirs": {"command": "true"}}}\n'
    cursor.write_text(theirs, encoding="utf-8")
    (home.path / "agentapi.toml").write_text("# mine\n", encoding="utf-8")
    await done(env, "connect", "cursor", "--force")
    assert "agentapi" in cursor.read_text(encoding="utf-8")
    other = {**env, "AGENTAPI_HOME": str(tmp_path)}
    bare = await done(other, "uninstall", "--yes")
    assert "There is nothing to remove" in bare.err
    assert ("Will go" in bare.err, "Removed" in bare.out) == (False, False)
    said = await refused(env, "uninstall")
    for part in (f"the server agentapi in {cursor}", f"{home.path / 'pg18'}: the embedded database, ", "say --yes"):
        assert part in said
    assert home.data.exists()
    gone = json.loads((await done(env, "uninstall", "--yes", "--json")).out)
    assert gone["clients"] == [{"client": "cursor", "server": "agentapi", "file": str(cursor)}]
    assert [each["path"] for each in gone["kept"]] == [str(home.path / "agentapi.toml")]
    assert cursor.read_text(encoding="utf-8") == theirs
    assert list(home.path.iterdir()) == [home.path / "agentapi.toml"]
    (home.path / "agentapi.toml").unlink()
    await done(env, "uninstall", "--yes")
    assert not home.path.exists()


async def test_a_database_that_is_elsewhere_goes_and_what_is_beside_it_stays(home: SharedHome) -> None:
    elsewhere = home.path.parent / "elsewhere"
    (home.path / "pg18").rename(elsewhere)
    (home.path / "pg18").symlink_to(elsewhere)
    (elsewhere / "mine").write_text("mine\n", encoding="utf-8")
    said = await refused(environ(home), "uninstall")
    (line,) = [line for line in said.splitlines() if "the embedded database" in line]
    assert line.endswith(f", {size(used(elsewhere))}")
    await done(environ(home), "uninstall", "--yes")
    assert not home.path.exists()
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]


@NEEDS_MOUNTS
async def test_what_cannot_be_removed_is_named_and_the_rest_goes(home: SharedHome) -> None:
    env = environ(home)
    cursor = home.path.parent / ".cursor" / "mcp.json"
    cursor.parent.mkdir()
    await done(env, "connect", "cursor", "--force")
    (home.path / CHAT_HISTORY).touch()
    with mounted_on_itself(home.path / CHAT_HISTORY):
        ran = await run_command(env, "uninstall", "--yes", "--json")
        assert ran.status == 3
        assert f"Not all of it could be removed: {home.path / CHAT_HISTORY} (Device or resource busy)" in ran.err
        told = json.loads(ran.out)
        assert told["error"]["code"] == "store_unavailable"
        (left,) = told["failed"]
        assert left == {"path": str(home.path / CHAT_HISTORY), "reason": "Device or resource busy"}
        assert [path.name for path in home.path.iterdir()] == [CHAT_HISTORY]
        assert not cursor.exists()
    await done(env, "uninstall", "--yes")
    assert not home.path.exists()


@NEEDS_MOUNTS
async def test_what_is_read_only_is_told_before_anything_is_removed(home: SharedHome) -> None:
    env = environ(home)
    cursor = home.path.parent / ".cursor" / "mcp.json"
    cursor.parent.mkdir()
    await done(env, "connect", "cursor", "--force")
    await asyncio.to_thread(stop_server, str(home.data), 30)
    with mounted_on_itself(home.path, read_only=True):
        assert "is read-only, or another user's. Nothing was removed." in await refused(env, "uninstall", "--yes")
    with mounted_on_itself(cursor.parent, read_only=True):
        assert "is read-only, or another user's. Nothing was removed." in await refused(env, "uninstall", "--yes")
    assert home.data.exists()
    assert "agentapi" in cursor.read_text(encoding="utf-8")


async def test_what_is_the_users_in_folders_of_our_names_stays(home: SharedHome) -> None:
    mine = [home.path / name / "mine" / "file" for name in ("bin", "owners", "run")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("mine\n", encoding="utf-8")
    (home.path / CHAT_HISTORY).write_text("", encoding="utf-8")
    gone = json.loads((await done(environ(home), "uninstall", "--yes", "--json")).out)
    assert [path.is_file() for path in mine] == [True, True, True]
    assert [each["path"] for each in gone["kept"]] == [str(path.parents[1]) for path in mine]
    assert not (home.path / CHAT_HISTORY).exists()


async def test_an_export_has_everything_of_ones_own_to_be_read(home: SharedHome, tmp_path: Path) -> None:
    file = tmp_path / "mine.zip"
    said = await done(environ(home), "export", str(file), "--json")
    counts = json.loads(said.out)
    assert (counts["sessions"], counts["tokens"], counts["keys"]) == (1, 1, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        (markdown,) = [name for name in names if name.endswith(f"{USER}.md")]
        (transcript,) = [name for name in names if name.startswith("sessions/") and name.endswith(".json")]
        assert "> end, \\N, \\., ¢, 🙂" in archive.read(markdown).decode()
        messages = json.loads(archive.read(transcript))["messages"]
        assert "a tab \t, a line\nend, \\N" in messages[0]["content"]
        assert [token["name"] for token in json.loads(archive.read("tokens.json"))] == ["laptop"]
        assert [key["name"] for key in json.loads(archive.read("keys.json"))] == ["mine"]
        assert not any(b"sealed" in archive.read(name) for name in names)
    assert "say --yes" in await refused(environ(home), "export", str(file))
    await done(environ(home), "export", str(file), "--yes")
    assert "cannot be written" in await refused(environ(home), "export", str(tmp_path / "there" / "mine.zip"))
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["mine.zip"]
