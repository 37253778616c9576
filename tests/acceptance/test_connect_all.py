"""`connect` without a client: what is installed is found, shown, asked for, and connected, each for itself."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.cli.known_clients import find_client
from tests.acceptance.test_connect import BEFORE, entry_in, of, place
from tests.acceptance.test_processes import run
from tests.support.terminals import Terminal, terminal

pytestmark = pytest.mark.acceptance
BROKEN = "[mcp_servers\n"


def used(home: Path, *clients: str) -> dict[str, Path]:
    """Make the files of clients that were used here."""
    paths = {client: place(client, home) for client in clients}
    for client, path in paths.items():
        path.write_bytes(BEFORE[client].encode())
    return paths


async def test_all_that_are_installed_are_connected_and_the_failure_of_one_stops_no_other(
    edge_home: Path, tmp_path: Path
) -> None:
    paths = used(tmp_path, "codex", "cursor", "opencode", "windsurf", "zed")
    paths["codex"].write_text(BROKEN, encoding="utf-8")
    misled = {"mcpServers": {"agentapi": {"command": "agentapi-mcp", "env": {"AGENTAPI_CONFIG": "/nowhere.toml"}}}}
    paths["windsurf"].write_text(json.dumps(misled), encoding="utf-8")
    status, out, err = await run(of(edge_home, tmp_path), "connect", "--yes")
    assert status == 1
    assert paths["codex"].read_text(encoding="utf-8") == BROKEN
    assert f"Codex ({paths['codex']}):" in err
    assert "is not what Codex reads" in err
    assert "does not work as Windsurf would start it" in err
    assert json.loads(paths["windsurf"].read_text(encoding="utf-8")) == misled
    for client in ("cursor", "opencode", "zed"):
        assert entry_in(client, paths[client])
        title = find_client(client, "linux", {"HOME": "/"}).title
        assert f"+++ {paths[client]}" in out
        assert f"Tried it as {title} starts it: 8 tools" in err
    assert "Claude" not in err
    assert (await run(of(edge_home, tmp_path), "disconnect", "opencode"))[0] == 0
    assert paths["opencode"].read_bytes().decode() == BEFORE["opencode"]


async def test_programs_read_what_became_of_each_client(edge_home: Path, tmp_path: Path) -> None:
    paths = used(tmp_path, "codex", "cursor")
    paths["codex"].write_text(BROKEN, encoding="utf-8")
    env = of(edge_home, tmp_path)
    status, out, _ = await run(env, "connect", "--json", "--dry-run")
    planned = {each["client"]: each for each in json.loads(out)}
    assert (status, planned["cursor"]["outcome"]) == (1, "would change")
    assert '+    "agentapi"' in planned["cursor"]["change"]
    status, out, _ = await run(env, "connect", "--json", "--yes")
    results = {each["client"]: each for each in json.loads(out)}
    assert (status, results.keys()) == (1, {"codex", "cursor"})
    assert results["codex"]["outcome"] == "failed"
    assert "is not what Codex reads" in results["codex"]["messages"][0]
    backup = str(paths["cursor"]) + ".agentapi-backup"
    expected = {"title": "Cursor", "file": str(paths["cursor"]), "outcome": "connected", "backup": backup}
    assert results["cursor"].items() > expected.items()
    status, out, _ = await run(env, "connect", "cursor", "--json", "--force")
    assert (status, [each["outcome"] for each in json.loads(out)]) == (0, ["unchanged"])


async def test_a_place_that_cannot_be_looked_into_stops_no_other_client(edge_home: Path, tmp_path: Path) -> None:
    paths = used(tmp_path, "cursor")
    env = of(edge_home, tmp_path, CODEX_HOME=str(tmp_path / ("n" * 300)))
    status, _, err = await run(env, "connect", "--yes")
    assert (status, "cannot be read (File name too long)" in err, "Traceback" in err) == (1, True, False)
    assert entry_in("cursor", paths["cursor"])


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_where_nobody_can_be_asked_nothing_is_written(
    words: tuple[str, ...], edge_home: Path, tmp_path: Path
) -> None:
    path = used(tmp_path, "cursor")["cursor"]
    status, out, err = await run(of(edge_home, tmp_path), "connect", *words)
    assert status == 2
    assert "write the files of cursor: say --yes" in err
    assert (f"+++ {path}" in out) is not bool(words)
    assert path.read_bytes().decode() == BEFORE["cursor"]


@pytest.mark.parametrize(("key", "is_written"), [("y", True), ("n", False)])
async def test_a_person_is_shown_the_changes_and_asked(
    key: str, *, is_written: bool, edge_home: Path, tmp_path: Path
) -> None:
    path = used(tmp_path, "cursor")["cursor"]

    def act(person: Terminal) -> int:
        asked = person.until("Connect cursor? [Y/n]")
        assert '"agentapi"' in person.seen[:asked]
        person.type(f"{key}\r")
        return person.leave()

    status, seen = await at(of(edge_home, tmp_path), act)
    assert status == 0, seen
    assert ("Tried it as Cursor" in seen) is is_written
    assert ("Nothing was written." in seen) is not is_written
    assert (path.read_bytes().decode() == BEFORE["cursor"]) is not is_written


async def at(env: dict[str, str], act: Callable[[Terminal], int]) -> tuple[int, str]:
    def do() -> tuple[int, str]:
        with terminal(env, "connect") as person:
            return act(person), person.seen

    return await asyncio.to_thread(do)


async def test_a_program_on_the_path_is_enough_and_nothing_at_all_is_told(edge_home: Path, tmp_path: Path) -> None:
    env = of(edge_home, tmp_path / "home")
    status, _, err = await run(env, "connect", "--yes")
    assert (status, "None of the clients that connect knows is installed here" in err) == (3, True)
    assert "opencode" in err
    (tmp_path / "gemini").touch(mode=0o755)
    status, _, err = await run(env | {"PATH": f"{tmp_path}:{env['PATH']}"}, "connect", "--yes")
    assert status == 0, err
    assert entry_in("gemini", tmp_path / "home" / ".gemini" / "settings.json")


async def test_what_is_about_one_client_needs_its_name(edge_home: Path, tmp_path: Path) -> None:
    env = of(edge_home, tmp_path)
    status, _, err = await run(env, "connect", "--yes", "--file", str(tmp_path / "x.json"))
    assert (status, "name that, too" in err) == (2, True)
    long = "s" * 50
    for words in (("--dry-run",), ("--print",), ()):
        status, _, err = await run(env, "connect", "cursor", "--force", "--name", long, *words)
        assert (status, "at most 41 characters for Cursor" in err) == (2, True)
    assert not (tmp_path / ".cursor").exists()
