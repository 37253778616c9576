"""`connect` and `disconnect` as their users run them, with the files of the clients in homes of their own."""

import asyncio
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest

from agentapi_mcp.cli.config_files import FileChangedError, put_back, read_config
from agentapi_mcp.cli.jsonc import parse
from agentapi_mcp.cli.known_clients import NAMES, find_client
from agentapi_mcp.cli.mcp_clients import JsonFormat, TomlFormat, env_of, words_of
from tests.acceptance.test_processes import environ, run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
KEY = "sk-or-0123456789"
OWNER = 65534 if os.geteuid() == 0 else os.geteuid()  # root alone can give files away
BEFORE = {
    "claude-desktop": '{"globalShortcut": "", "mcpServers": {"files": {"command": "npx", "args": ["-y", "files"]}}}',
    "claude-code": '{\n  "numStartups": 12,\n  "mcpServers": {},\n  "projects": {"/a": {"mcpServers": {}}}\n}\n',
    "vscode": '{\n\t// mine\n\t"servers": {\n\t\t"files": {"type": "stdio", "command": "npx"}, // x\n\t},\n}\n',
    "cursor": '{\r\n  "mcpServers": {\r\n    "files": {"url": "http://localhost:1"}\r\n  }\r\n}\r\n',
    "gemini": '{\n  "security": {"auth": {}},\n  "mcpServers": {"files": {"httpUrl": "http://localhost:1"}}\n}\n',
    "junie": '{"mcpServers": {"files": {"command": "npx", "args": [], "env": {}}}}',
    "opencode": '{\n  "$schema": "x",\n  // mine\n  "mcp": {\n    "x": {"type": "remote", "url": "x"},\n  },\n}\n',
    "windsurf": '{\n  "mcpServers": {}\n}',
    "zed": '// mine\n{\n  "vim_mode": true,\n  "context_servers": {\n    "files": {"command": "npx"},\n  },\n}\n',
    "codex": 'model = "o"  # mine\n\n[mcp_servers.files]\ncommand = "npx"\n\n[profiles.x]\nmodel = "p"\n',
}


def place(client: str, home: Path) -> Path:
    """Return where a client keeps its servers, made as the client makes it."""
    path = find_client(client, "linux", {"HOME": str(home)}).file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def entry_in(client: str, path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    form = find_client(client, "linux", {"HOME": "/"}).format
    found = form.find(text, "agentapi")
    assert found is not None
    return cast("dict[str, Any]", found)


def without_ours(client: str, text: str) -> object:
    """Read a file, leaving our entry out."""
    form = find_client(client, "linux", {"HOME": "/"}).format
    assert isinstance(form, JsonFormat | TomlFormat)
    document = tomllib.loads(text) if isinstance(form, TomlFormat) else parse(text).value
    cast("dict[str, dict[str, object]]", document)[form.key].pop("agentapi", None)
    return document


def of(edge_home: Path, home: Path, **more: str) -> dict[str, str]:
    env = environ(edge_home) | {"HOME": str(home)} | more
    del env["AGENTAPI_RESIDENT"]  # a trial starts no server that others share, whatever it is
    return env


@pytest.mark.parametrize("client", NAMES)
async def test_a_client_is_connected_once_and_disconnected_without_a_trace(
    client: str, edge_home: Path, tmp_path: Path
) -> None:
    path = place(client, tmp_path)
    path.write_bytes(BEFORE[client].encode())
    path.chmod(0o640)
    env = of(edge_home, tmp_path, OPENROUTER_API_KEY=KEY)
    status, out, err = await run(env, "connect", client)
    assert (status, out) == (0, ""), err
    assert "8 tools; agents that can be used: guide" in err
    assert "; with --env OPENROUTER_API_KEY also droid, in " in err
    assert "Not handed on of what is set here: AGENTAPI_POSTGRES_LINGER_SECONDS, OPENROUTER_API_KEY." in err
    entry = entry_in(client, path)
    assert env_of(entry) == {"AGENTAPI_HOME": str(edge_home)}
    assert Path(words_of(entry)[0]).is_absolute()
    after = path.read_bytes()
    assert without_ours(client, after.decode()) == without_ours(client, BEFORE[client])
    assert oct(path.stat().st_mode)[-3:] == "640"
    backup = path.with_name(f"{path.name}.agentapi-backup")
    assert backup.read_bytes().decode() == BEFORE[client]
    status, _, err = await run(env, "connect", client, "--force")
    assert status == 0
    assert "nothing was changed" in err
    assert path.read_bytes() == after
    status, _, err = await run(env, "disconnect", client)
    assert status == 0, err
    assert path.read_bytes().decode() == BEFORE[client]
    assert sorted(path.parent.iterdir()) == sorted({path, *(each for each in path.parent.iterdir() if each.is_dir())})
    status, _, err = await run(env, "disconnect", client)
    assert (status, "nothing was changed" in err) == (0, True)


@pytest.mark.parametrize("client", NAMES)
async def test_a_file_that_was_not_there_goes_again(client: str, edge_home: Path, tmp_path: Path) -> None:
    path = place(client, tmp_path)
    env = of(edge_home, tmp_path, OPENROUTER_API_KEY=KEY)
    words = ("connect", client, "--env", "OPENROUTER_API_KEY")
    status, changes, said = await run(env, *words, "--dry-run")
    assert (status, list(path.parent.iterdir())) == (0, []), said
    # The trial has the value, whatever the file says of it.
    status, _, err = await run(env, *words)
    assert status == 0, err
    assert "agents that can be used: droid, guide" in err
    text = path.read_text(encoding="utf-8")
    assert (KEY in text) is (client in {"claude-desktop", "junie", "zed"})  # which know no references
    assert [line[1:] for line in changes.splitlines()[3:]] == text.replace(KEY, "[hidden]").splitlines()
    assert oct(path.stat().st_mode)[-3:] == "600"
    status, shown, err = await run(env, *words, "--print")
    assert (status, str(path) in err) == (0, True)
    read = tomllib.loads if client == "codex" else json.loads
    assert read(shown) == read(text.replace(KEY, "<the value of OPENROUTER_API_KEY>"))
    assert KEY not in f"{changes}{said}{shown}{err}"
    assert (await run(env, "disconnect", client))[0] == 0
    assert not path.exists()


async def test_a_key_that_was_replaced_or_taken_out_is_in_no_backup(edge_home: Path, tmp_path: Path) -> None:
    client = "claude-desktop"  # the one that cannot refer to a variable
    path = place(client, tmp_path)
    path.write_bytes(BEFORE[client].encode())
    for key in ("sk-or-first", "sk-or-second"):
        env = of(edge_home, tmp_path, OPENROUTER_API_KEY=key)
        assert (await run(env, "connect", client, "--force", "--env", "OPENROUTER_API_KEY"))[0] == 0
        assert entry_in(client, path)["env"]["OPENROUTER_API_KEY"] == key
    path.write_bytes(path.read_bytes().replace(b"npx", b"npm"))  # so that no backup fits any more
    assert (await run(of(edge_home, tmp_path), "disconnect", client))[0] == 0
    texts = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    assert texts.keys() == {path.name, f"{path.name}.agentapi-backup"}
    assert [name for name, text in texts.items() if b"sk-or-" in text] == []


@pytest.mark.parametrize(
    ("client", "text", "status", "said"),
    [
        ("cursor", '{"mcpServers": {"agentapi": {"command": "agentapi-mcp", "env": 5}}}', 0, "Wrote"),
        ("codex", f"a = {'[' * 900}{']' * 900}\n", 3, "nested too deeply"),
    ],
)
async def test_an_odd_file_is_changed_or_refused_in_words(
    client: str, text: str, status: int, said: str, edge_home: Path, tmp_path: Path
) -> None:
    path = place(client, tmp_path)
    path.write_text(text, encoding="utf-8")
    found, _, err = await run(of(edge_home, tmp_path), "connect", client, "--force")
    assert (found, said in err, "Traceback" in err) == (status, True, False)


async def test_what_does_not_work_is_not_written(edge_home: Path, tmp_path: Path) -> None:
    path = place("cursor", tmp_path)
    path.write_bytes(BEFORE["cursor"].encode())
    env = of(edge_home, tmp_path) | {"AGENTAPI_CONFIG": str(tmp_path / "nowhere.toml")}
    status, _, err = await run(env, "connect", "cursor")
    assert status == 3
    assert "nowhere.toml" in err
    assert "Nothing was written" in err
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes().decode() == BEFORE["cursor"]


def opened_for_writing(fifo: Path) -> int | None:
    """Open a named pipe; None while nobody reads it."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


async def test_what_the_client_writes_while_the_server_is_tried_is_kept(edge_home: Path, tmp_path: Path) -> None:
    path, fifo = place("cursor", tmp_path), tmp_path / "agentapi.toml"
    path.write_text('{"numStartups": 1}', encoding="utf-8")
    os.mkfifo(fifo)  # its reader, the server that is tried, waits here
    async with asyncio.TaskGroup() as group:
        env = of(edge_home, tmp_path) | {"AGENTAPI_CONFIG": str(fifo)}
        connecting = group.create_task(run(env, "connect", "cursor"))
        pipe = await asyncio.to_thread(wait_until, lambda: opened_for_writing(fifo))
        assert pipe is not None
        path.write_text('{"numStartups": 2}', encoding="utf-8")
        settled = tmp_path / "settled.toml"
        settled.touch()
        settled.replace(fifo)
        os.close(pipe)
    status, _, err = connecting.result()
    assert status == 0, err
    written = json.loads(path.read_text(encoding="utf-8"))
    assert (written["numStartups"], list(written["mcpServers"])) == (2, ["agentapi"])
    assert path.with_name("mcp.json.agentapi-backup").read_text(encoding="utf-8") == '{"numStartups": 2}'


async def test_connections_that_are_made_at_once_are_all_made(edge_home: Path, tmp_path: Path) -> None:
    path = place("cursor", tmp_path)
    names = [f"s{number}" for number in range(4)]
    env = of(edge_home, tmp_path)
    async with asyncio.TaskGroup() as group:
        words = [("connect", "cursor", "--force", "--name", name) for name in names]
        tasks = [group.create_task(run(env, *each)) for each in words]
    assert [task.result()[0] for task in tasks] == [0] * 4
    assert names_in(path) == names


async def test_a_name_with_which_names_of_tools_become_too_long_is_refused(edge_home: Path, tmp_path: Path) -> None:
    env = of(edge_home, tmp_path)
    # Cursor takes 60 characters for the server's name, a colon and the tool's name.
    status, _, err = await run(env, "connect", "cursor", "--force", "--name", "n" * 42)
    assert (status, "at most 41" in err) == (2, True)
    assert not place("cursor", tmp_path).exists()
    assert (await run(env, "connect", "cursor", "--force", "--name", "n" * 41))[0] == 0


async def test_what_is_no_file_is_refused_and_a_broken_backup_is_passed_over(edge_home: Path, tmp_path: Path) -> None:
    path, env = place("cursor", tmp_path), of(edge_home, tmp_path)
    os.mkfifo(path)
    status, _, err = await run(env, "connect", "cursor", "--force")
    assert (status, "cannot be read (it is no file)" in err) == (3, True)
    path.unlink()
    path.symlink_to(path)
    status, _, err = await run(env, "connect", "cursor", "--force")
    assert (status, "cannot be read" in err, "Traceback" in err) == (3, True, False)
    path.unlink()
    path.write_text('{"mcpServers": {"agentapi": {"command": "agentapi-mcp"}, "x": {}}}', encoding="utf-8")
    path.with_name("mcp.json.agentapi-backup").write_bytes(b"\xff")
    assert (await run(env, "disconnect", "cursor"))[0] == 0
    assert names_in(path) == ["x"]


async def test_what_somebody_added_to_our_entry_stays(edge_home: Path, tmp_path: Path) -> None:
    path = place("cursor", tmp_path)
    old = {
        "command": "uvx",
        "args": ["agentapi-mcp"],
        "env": {"MY_KEY": "x", "AGENTAPI_HOME": "/old"},
        "disabled": False,
    }
    path.write_text(json.dumps({"mcpServers": {"agentapi": old}}), encoding="utf-8")
    status, _, err = await run(of(edge_home, tmp_path), "connect", "cursor", "--force")
    assert status == 0, err
    entry = entry_in("cursor", path)
    assert entry["env"] == {"MY_KEY": "x", "AGENTAPI_HOME": str(edge_home)}
    assert entry["disabled"] is False
    assert entry["command"] != "uvx"


async def test_the_options_of_our_command_stay_and_can_be_set(edge_home: Path, tmp_path: Path) -> None:
    path, env = place("cursor", tmp_path), of(edge_home, tmp_path)
    old = {"command": "uvx", "args": ["agentapi-mcp", "--toolsets=core,admin", "--tool-prefix", "house_"]}
    path.write_text(json.dumps({"mcpServers": {"agentapi": old}}), encoding="utf-8")
    for words, expected in (
        ((), ["--toolsets", "core,admin", "--tool-prefix", "house_"]),
        (("--tool-prefix", "x_"), ["--toolsets", "core,admin", "--tool-prefix", "x_"]),
        (("--toolsets", "core"), ["--toolsets", "core", "--tool-prefix", "x_"]),
    ):
        status, _, err = await run(env, "connect", "cursor", "--force", *words)
        assert (status, entry_in("cursor", path)["args"][-4:]) == (0, expected), err
    status, _, err = await run(env, "connect", "cursor", "--force")
    assert "nothing was changed" in err
    for words, said in ((("--toolsets", "nope"), "must be one or more of"), (("--tool-prefix", "a b"), "must be 1 to")):
        status, _, err = await run(env, "connect", "cursor", "--force", *words)
        assert (status, said in err) == (3, True)
    status, shown, _ = await run(env, "connect", "opencode", "--print", "--tool-prefix", "x_")
    assert json.loads(shown)["mcp"]["agentapi"]["command"][-2:] == ["--tool-prefix", "x_"]


async def test_the_servers_own_prefix_counts_for_the_names_of_tools(edge_home: Path, tmp_path: Path) -> None:
    path, long = place("cursor", tmp_path), "prefix_of_twenty_ch_"
    env = of(edge_home, tmp_path, AGENTAPI_TOOL_PREFIX=long)
    named = ("--name", "n" * 22)
    for words in (("--tool-prefix", long), ("--env", "AGENTAPI_TOOL_PREFIX")):
        for way in ("--print", "--dry-run", "--force"):
            status, _, err = await run(env, "connect", "cursor", *named, *words, way)
            assert (status, "at most 21 characters for Cursor beside the prefix" in err) == (2, True), err
    assert not path.exists()
    assert (await run(env, "connect", "cursor", "--force", *named))[0] == 0  # it is not handed on
    status, _, err = await run(env, "connect", "cursor", "--name", "n" * 21, "--tool-prefix", long)
    assert (status, "8 tools; agents that can be used: guide" in err) == (0, True), err
    status, _, err = await run(env, "connect", "cursor", "--toolsets", "preferences")
    assert (status, "2 tools, in" in err) == (0, True), err


async def test_what_starts_us_in_a_way_of_the_users_is_replaced_by_force_and_kept(
    edge_home: Path, tmp_path: Path
) -> None:
    path, env = place("cursor", tmp_path), of(edge_home, tmp_path)
    text = '{"mcpServers": {"agentapi": {"command": "docker", "args": ["run", "-i", "me/agentapi-mcp:1"]}}}'
    path.write_text(text, encoding="utf-8")
    status, _, err = await run(env, "connect", "cursor")
    assert (status, "has another server of the name agentapi" in err) == (3, True)
    assert path.read_text(encoding="utf-8") == text
    status, _, err = await run(env, "connect", "cursor", "--force")
    assert status == 0, err
    assert path.with_name("mcp.json.agentapi-backup").read_text(encoding="utf-8") == text


async def test_another_entry_that_starts_this_program_is_told(edge_home: Path, tmp_path: Path) -> None:
    path, env = place("cursor", tmp_path), of(edge_home, tmp_path)
    path.write_text('{"mcpServers": {"house": {"command": "/old/agentapi-mcp"}}}', encoding="utf-8")
    for way in ("--dry-run", "--force"):
        status, _, err = await run(env, "connect", "cursor", way)
        assert (status, "starts this program as house, too" in err) == (0, True), err
    assert names_in(path) == ["agentapi", "house"]
    assert (await run(env, "disconnect", "cursor", "--name", "house"))[0] == 0
    status, _, err = await run(env, "connect", "cursor", "--force")
    assert "too" not in err


async def test_codex_has_the_tools_in_its_first_turn_and_calls_them_without_asking(
    edge_home: Path, tmp_path: Path
) -> None:
    path, env = place("codex", tmp_path), of(edge_home, tmp_path)
    status, _, err = await run(env, "connect", "codex", "--force")
    assert status == 0, err
    added = {"startup_timeout_sec": 30, "tool_timeout_sec": 120, "required": True}
    assert entry_in("codex", path).items() >= (added | {"default_tools_approval_mode": "approve"}).items()
    assert "calls them without asking you (approve)" in err
    path.write_text(path.read_text(encoding="utf-8").replace('"approve"', '"prompt"'), encoding="utf-8")
    status, _, err = await run(env, "connect", "codex", "--force")
    assert entry_in("codex", path).items() >= (added | {"default_tools_approval_mode": "prompt"}).items()
    assert "without asking you" not in err


async def test_claude_code_waits_for_the_server_unless_its_user_says_otherwise(edge_home: Path, tmp_path: Path) -> None:
    path, env = place("claude-code", tmp_path), of(edge_home, tmp_path)
    path.write_text('{"mcpServers": {"agentapi": {"command": "agentapi-mcp"}}}', encoding="utf-8")
    status, _, err = await run(env, "connect", "claude-code", "--force")
    assert (status, entry_in("claude-code", path)["alwaysLoad"]) == (0, True)
    assert "Claude Code waits for this server (alwaysLoad)" in err
    path.write_text(path.read_text(encoding="utf-8").replace("true", "false"), encoding="utf-8")
    status, _, err = await run(env, "connect", "claude-code", "--force")
    assert (status, entry_in("claude-code", path)["alwaysLoad"]) == (0, False)
    assert "alwaysLoad" not in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"mcpServers": {"agentapi": {"command": "other"}}}', "choose another by --name"),
        ('{"mcpServers": [', "line 1, column 17: a value is expected"),
        ('{"mcpServers": []}', "line 1, column 16: an object is expected"),
    ],
)
async def test_what_is_not_ours_to_change_is_left(text: str, said: str, edge_home: Path, tmp_path: Path) -> None:
    path = place("cursor", tmp_path)
    path.write_text(text, encoding="utf-8")
    for command in ("connect", "disconnect"):
        status, _, err = await run(of(edge_home, tmp_path), command, "cursor")
        assert status == 3
        assert said in err or command == "disconnect"
        assert path.read_text(encoding="utf-8") == text


async def test_a_client_that_was_never_used_is_not_made_up(edge_home: Path, tmp_path: Path) -> None:
    status, _, err = await run(of(edge_home, tmp_path), "connect", "cursor")
    assert status == 3
    assert "Start it once" in err
    status, _, err = await run(of(edge_home, tmp_path), "connect", "cursor", "--env", "NOT_SET_HERE", "--force")
    assert (status, "NOT_SET_HERE is not set" in err) == (2, True)


def names_in(path: Path) -> list[str]:
    return sorted(json.loads(path.read_text(encoding="utf-8"))["mcpServers"])


async def test_a_symbolic_link_stays_one_and_a_second_backup_keeps_the_first(edge_home: Path, tmp_path: Path) -> None:
    path = place("cursor", tmp_path)
    real = tmp_path / "dotfiles.json"
    real.write_text("{}", encoding="utf-8")
    path.symlink_to(real)
    env = of(edge_home, tmp_path)
    for name in ("one", "two"):
        status, _, err = await run(env, "connect", "cursor", "--force", "--name", name)
        assert status == 0, err
    assert path.is_symlink()
    assert names_in(real) == ["one", "two"]
    first, second = (tmp_path / f"dotfiles.json.agentapi-backup{number}" for number in ("", "-1"))
    assert first.read_text(encoding="utf-8") == "{}"
    assert names_in(second) == ["one"]
    status, _, _ = await run(env, "disconnect", "cursor", "--name", "one")
    assert names_in(real) == ["two"]


async def test_an_empty_file_is_empty_again_and_the_owner_of_a_file_stays(edge_home: Path, tmp_path: Path) -> None:
    path, env = place("cursor", tmp_path), of(edge_home, tmp_path)
    path.touch()
    os.chown(path, OWNER, OWNER)
    assert (await run(env, "connect", "cursor", "--force"))[0] == 0
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_size > 0) == (OWNER, OWNER, True)
    assert (await run(env, "disconnect", "cursor"))[0] == 0
    assert (path.read_bytes(), path.stat().st_uid, list(path.parent.iterdir())) == (b"", OWNER, [path])


def test_what_was_changed_meanwhile_is_not_put_back(tmp_path: Path) -> None:
    client, path = find_client("cursor", "linux", {"HOME": str(tmp_path)}), tmp_path / "mcp.json"
    path.write_text("{}", encoding="utf-8")
    backup = tmp_path / "backup"
    backup.touch()
    config = read_config(client, path)
    path.write_text('{"a": 1}', encoding="utf-8")
    for before in (None, backup):
        with pytest.raises(FileChangedError):
            put_back(config, before)
    assert (path.read_text(encoding="utf-8"), backup.exists()) == ('{"a": 1}', True)


async def test_a_projects_file_may_be_named(edge_home: Path, tmp_path: Path) -> None:
    path = tmp_path / ".mcp.json"
    words = ("claude-code", "--file", str(path), "--force")
    assert (await run(of(edge_home, tmp_path), "connect", *words))[0] == 0
    assert entry_in("claude-code", path)["type"] == "stdio"
    assert sys.executable.rpartition("/")[0] in path.read_text(encoding="utf-8")


async def test_a_variable_that_a_server_over_stdio_does_not_read_is_told(edge_home: Path, tmp_path: Path) -> None:
    env = of(
        edge_home, tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:9/none", REDIS_URL="redis://127.0.0.1:9/0"
    )
    status, _, err = await run(env, "connect", "cursor", "--force", "--env", "DATABASE_URL")
    assert status == 0, err
    wanted = "the server does not read DATABASE_URL: set AGENTAPI_DATABASE_URL, and say --env AGENTAPI_DATABASE_URL."
    assert wanted in err
    assert "does not read REDIS_URL" not in err
    assert "Not handed on of what is set here: AGENTAPI_POSTGRES_LINGER_SECONDS." in err
