"""Servers in a client's file, in JSON and in TOML."""

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import ConfigurationError, InvalidRequestError
from agentapi_mcp.cli.known_clients import NAMES, find_client, installed_clients
from agentapi_mcp.cli.mcp_clients import (
    SERVER_OPTIONS,
    Entry,
    TomlFormat,
    is_ours,
    options_of,
    with_options,
    words_of,
)
from agentapi_mcp.edges.mcp.tools.registry import find_tools
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names

FORM = TomlFormat("mcp_servers")
ENTRY: dict[str, object] = {
    "command": "/opt/x",
    "args": ["-m", 'a "b"'],
    "env": {"KEY": "v\\"},
    "tool_timeout_sec": 120,
}
PIECES = st.sampled_from(
    [
        'model = "o"  # mine\n',
        "\n",
        "# [mcp_servers.agentapi]\n",
        '[profiles.x]\nmodel = "p"\n',
        '[mcp_servers.files]\ncommand = "npx"\n',
        '[mcp_servers.files.env]\nA = "b"\n',
        '[mcp_servers."agentapi"]\ncommand = "old"\n',
        '[mcp_servers.agentapi.env]\nOLD = "1"\n',
        '[mcp_servers.agentapi-two]\ncommand = "other"\n',
        'text = """\n[not a table]\n"""\n',
        'notes = """\n[mcp_servers.agentapi]\n"""\n',
        "[[many]]\nx = 1\n",
        "numbers = [\n[1, 2],\n]\n",
    ]
)


def servers_of(text: str) -> dict[str, Any]:
    return tomllib.loads(text).get("mcp_servers", {})


def others_of(text: str) -> dict[str, Any]:
    return tomllib.loads(text) | {"mcp_servers": {k: v for k, v in servers_of(text).items() if k != "agentapi"}}


@settings(deadline=None)
@given(st.lists(PIECES, max_size=6, unique=True).map("".join))
def test_a_table_is_put_and_taken_and_nothing_else_changes(text: str) -> None:
    try:
        before = others_of(text)
    except tomllib.TOMLDecodeError:
        return  # these pieces do not go together
    put = FORM.put(text, "agentapi", ENTRY)
    taken = FORM.remove(put, "agentapi")
    assert servers_of(put)["agentapi"] == ENTRY
    assert others_of(put) == others_of(taken) == before
    assert "agentapi" not in servers_of(taken)
    assert FORM.put(put, "agentapi", ENTRY) == put


def test_what_cannot_be_changed_safely_is_left_to_the_user() -> None:
    with pytest.raises(ConfigurationError, match="do it by hand"):
        FORM.put("mcp_servers = 3\n", "agentapi", ENTRY)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("name", NAMES)
def test_each_client_keeps_its_servers_below_the_users_home(name: str, system: str) -> None:
    environ = {"HOME": "/home/me", "APPDATA": "/home/me/AppData/Roaming"}
    client = find_client(name, system, environ)
    assert client.file.is_relative_to("/home/me")
    assert is_ours(client.entry(["/opt/agentapi-mcp"], {}, {}))
    assert client.format.find(client.format.show("agentapi", ENTRY), "agentapi") == ENTRY


def test_what_starts_this_program_is_ours() -> None:
    assert is_ours({"command": "uvx", "args": ["--from", "/x", "agentapi-mcp"]})
    assert is_ours({"command": "/usr/bin/python3", "args": ["-m", "agentapi_mcp"]})
    assert is_ours({"command": "C:\\tools\\agentapi-mcp.exe"})
    assert is_ours(
        {"command": "/usr/bin/uv", "args": ["run", "--directory", "/x", "agentapi-mcp", "--toolsets", "core"]}
    )
    assert is_ours({"command": "uvx", "args": ["agentapi-mcp@latest"]})
    assert not is_ours({"command": "npx", "args": ["-y", "other"]})
    assert not is_ours({"url": "http://localhost"})


@pytest.mark.parametrize(
    "words",
    [
        ["docker", "run", "-i", "--rm", "ghcr.io/me/agentapi-mcp:1"],
        ["ssh", "host", "agentapi-mcp"],
        ["sh", "-c", "cd /x && agentapi-mcp"],
        ["/opt/agentapi-mcp/other-server"],
        ["node", "/home/me/agentapi-mcp-notes/server.js"],
        ["python3", "/opt/agentapi_mcp/mine.py"],
        ["uvx", "--from", "/x/agentapi-mcp", "other"],
        [],
    ],
)
def test_what_starts_it_in_a_way_of_the_users_is_theirs(words: list[str]) -> None:
    assert not is_ours({"command": words})


VALUES = st.text("abc,_-", min_size=1, max_size=6)
SOME = st.dictionaries(st.sampled_from(SERVER_OPTIONS), VALUES)


@given(SOME, SOME, st.booleans(), st.booleans())
def test_options_are_set_in_their_places_and_others_stay(
    present: dict[str, str],
    new: dict[str, str],
    joined: bool,  # noqa: FBT001  # drawn
    mine: bool,  # noqa: FBT001  # drawn
) -> None:
    words = [word for name, value in present.items() for word in ([f"{name}={value}"] if joined else [name, value])]
    words += ["--mine"] * mine
    changed = with_options(words, new)
    pairs = {name: value for name, value in pairwise(changed) if name in SERVER_OPTIONS}
    assert pairs == present | new
    assert [name for name in changed if name in present] == list(present)
    assert changed.count("--mine") == mine
    assert with_options(changed, new) == changed
    entry: Entry = {"command": ["agentapi-mcp", *changed]}
    assert options_of(entry) == changed
    assert find_client("cursor", "linux", {"HOME": "/"}).server_prefix(entry, {}) == pairs.get("--tool-prefix", "")


def test_the_command_of_an_entry_may_be_a_list() -> None:
    assert is_ours({"type": "local", "command": ["/opt/agentapi-mcp", "--toolsets", "core"]})
    assert words_of({"command": "a", "args": ["b"]}) == words_of({"command": ["a", "b"]}) == ["a", "b"]


LIMITS = {"cursor": 60, "gemini": 63}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_tools_with_the_clients_prefix_fit_a_models_limit(name: str) -> None:
    client = find_client(name, "linux", {"HOME": "/"})
    longest = max((tool.spec.name for tool in find_tools(toolset_names())), key=len)
    whole = client.tool_prefix + longest
    fits = "s" * (LIMITS.get(name, 64) - len(whole.replace("NAME", "")))
    client.check_name("agentapi")
    client.check_name(fits[2:], "x_")
    with pytest.raises(InvalidRequestError, match="beside the prefix x_"):
        client.check_name(fits[1:], "x_")
    client.check_name(fits)
    assert len(whole.replace("NAME", fits)) == LIMITS.get(name, 64)
    with pytest.raises(InvalidRequestError, match=f"at most {len(fits)} characters for {client.title}"):
        client.check_name(fits + "s")


@pytest.mark.parametrize("name", NAMES)
def test_a_client_is_installed_where_its_program_or_its_files_are(name: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path)}
    client = find_client(name, "linux", environ)
    assert name not in installed_clients("linux", environ)
    for program in client.programs:
        (tmp_path / program).touch(mode=0o755)
        assert name in installed_clients("linux", environ)
        (tmp_path / program).unlink()
    client.file.parent.mkdir(parents=True)
    client.file.touch()
    assert name in installed_clients("linux", environ)


def test_opencode_reads_the_file_with_comments_where_there_is_one(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert find_client("opencode", "linux", environ).file.name == "opencode.json"
    directory = tmp_path / ".config" / "opencode"
    directory.mkdir(parents=True)
    (directory / "opencode.jsonc").touch()
    assert find_client("opencode", "linux", environ).file == directory / "opencode.jsonc"


def test_gemini_knows_a_reference_without_braces() -> None:
    client = find_client("gemini", "linux", {"HOME": "/"})
    entry: dict[str, object] = {
        "command": "x",
        "env": {"A": "$MY_KEY", "B": "${MY_KEY}", "C": "${OTHER:-d}", "D": "$OTHER"},
    }
    assert client.start_environment(entry, {"MY_KEY": "k"}) == {"A": "k", "B": "k", "C": "d"}


def test_the_byte_order_mark_of_a_file_stays_where_it_is() -> None:
    made = FORM.put('\ufeffmodel = "o"\n', "agentapi", ENTRY)
    assert made.startswith('\ufeffmodel = "o"\n')
    assert FORM.find(made, "agentapi") == ENTRY
    assert FORM.remove(made, "agentapi") == '\ufeffmodel = "o"\n'


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("codex", '[[mcp_servers.agentapi]]\ncommand = "x"\n'),
        ("codex", "[mcp_servers]\nagentapi = 5\n"),
        ("cursor", '{"mcpServers": {"agentapi": null}}'),
        ("cursor", '{"mcpServers": {"agentapi": ["x"]}}'),
    ],
)
def test_what_has_the_name_and_is_no_entry_is_not_taken_for_absent(client: str, text: str) -> None:
    found = find_client(client, "linux", {"HOME": "/"}).format.find(text, "agentapi")
    assert found == {}
