"""One table of a TOML file is edited, and nothing else of it is."""

import asyncio
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tomlkit import item, parse

from agentapi_mcp.cli.toml_edits import UnsafeEditError, add, put, put_in_list, remove, tables

PATH = ("mcp_servers", "agentapi")
ENTRY: dict[str, object] = {"command": "/opt/x", "args": ["-m", 'a "b"'], "env": {"KEY": "v\\", "OTHER": "\U0001f600"}}
OTHERS = st.sampled_from(
    [
        "\n",
        "# about the next\n",
        "# [mcp_servers.agentapi]\n",
        '[profiles.x]\nmodel = "p"\n',
        '[mcp_servers.files]\ncommand = "npx"  # mine\n',
        '[mcp_servers.files.env]\nA = "b"\n',
        '[mcp_servers.agentapi-two]\ncommand = "other"\n',
        '[notes]\ntext = """\n[mcp_servers.agentapi]\n"""\n',
        "[[many]]\nx = 1\n",
        "[numbers]\nratio = nan\nmost = -inf\n",
        "[lists]\nnumbers = [\n[1, 2],\n]\n",
    ]
)
AT_THE_TOP = st.sampled_from(
    [
        "",
        'model = "o"  # mine\n',
        "[mcp_servers]\n",
        '[mcp_servers]\ndocs = { command = "d" }  # inline\n',
        'mcp_servers.docs.command = "d"  # dotted\n',
        'mcp_servers = { docs = { command = "d" } }  # inline\n',
        "mcp_servers = {}\n",
    ]
)
OURS = st.sampled_from(
    [
        '[mcp_servers.agentapi]\ncommand = "old"  # ours\nkept = 1\n',
        '[mcp_servers."agentapi"]\ncommand = "old"\n[mcp_servers.agentapi.env]\nOLD = "1"\n',
        '[mcp_servers.agentapi.env]\nOLD = "1"\n',
    ]
)
OURS_AT_THE_TOP = st.sampled_from(
    [
        'mcp_servers.agentapi.command = "old"\nmcp_servers.agentapi.args = []\n',
        'mcp_servers.agentapi = { command = "old" }\n',
        'mcp_servers = { agentapi = { command = "old", env = { A = "b" } }, docs = { command = "d" } }\n',
        '[mcp_servers]\nagentapi = { command = "old" }\ndocs = { command = "d" }\n',
        '[mcp_servers]\nagentapi.command = "old"\ndocs.command = "d"\n',
    ]
)
NEWLINES = st.sampled_from(["\n", "\r\n"])


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Join the parts to files that TOML allows, with either end of a line."""
    texts = st.tuples(*parts).map("".join)
    return st.tuples(texts, NEWLINES).map(lambda pair: pair[0].replace("\n", pair[1])).filter(is_toml)


def is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


SOME = st.lists(OTHERS, max_size=4, unique=True).map("".join)
WITHOUT = joined(AT_THE_TOP, SOME)
WITH = joined(AT_THE_TOP, SOME, OURS, SOME) | joined(OURS_AT_THE_TOP, SOME).filter(
    lambda text: parse(text).as_string() == text  # of the others tomlkit changes the order, so that they are refused
)


def ours_of(text: str) -> object:
    return tomllib.loads(text).get("mcp_servers", {}).get("agentapi")


def others_of(text: str) -> dict[str, Any]:
    document = tomllib.loads(text, parse_float=str)  # nan equals nothing
    return document | {"mcp_servers": {k: v for k, v in document.get("mcp_servers", {}).items() if k != "agentapi"}}


def comments_of(text: str) -> list[str]:
    """List the comments that are not of our own table."""
    return [line[line.index("#") :] for line in text.splitlines() if "#" in line and "# ours" not in line]


BLOCK = """[mcp_servers.agentapi]
# ours, and about the next key
command = "new"

[mcp_servers.agentapi.env]
KEY = "${VAR}"  # ours

[[mcp_servers.agentapi.list]]
name = "one"  # known as
prices = { input = 0.1, on = 2026-07-02 }

[[mcp_servers.agentapi.list]]
name = "two"
"""


@settings(deadline=None)
@given(WITHOUT)
def test_a_block_with_comments_is_added_and_removed_and_nothing_else_changes(text: str) -> None:
    try:
        added = add(text, PATH, BLOCK)
    except UnsafeEditError:
        assert "mcp_servers = {" in text or "mcp_servers.docs" in text  # which may not be added to elsewhere
        return
    assert BLOCK in added.replace("\r\n", "\n")
    assert others_of(added) == others_of(text)
    assert tables(added, PATH[0]) == [*tables(text, PATH[0]), PATH[1]]
    assert others_of(remove(added, PATH)) == others_of(text)
    assert "ours" not in remove(added, PATH)
    if text.endswith("\n") or not text:
        assert remove(added, PATH) == text


@settings(deadline=None)
@given(WITHOUT, SOME, st.booleans())
def test_values_are_put_into_a_list_of_tables_and_nothing_else_changes(text: str, after: str, more: bool) -> None:  # noqa: FBT001  # drawn
    try:
        whole = add(text, PATH, BLOCK) + after
    except UnsafeEditError:
        return
    if not is_toml(whole):
        return
    new = {"name": "three", "prices": {"output": 2.5}}
    changed = put_in_list(whole, PATH, "list", {0: {"size": 1, "name": "uno"}}, [new] if more else [])
    expected = tomllib.loads(BLOCK)[PATH[0]][PATH[1]]
    expected["list"][0] |= {"size": 1, "name": "uno"}
    expected["list"] += [new] if more else []
    assert ours_of(changed) == expected
    assert others_of(changed) == others_of(whole)
    assert [line for line in whole.splitlines() if line not in changed.splitlines()] == ['name = "one"  # known as']
    assert 'name = "uno"  # known as' in changed


LINE = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))


@settings(deadline=None)
@given(LINE, LINE, st.booleans())
def test_a_comment_after_a_value_stays_whole(value: str, comment: str, mark: bool) -> None:  # noqa: FBT001  # drawn
    text = "\ufeff" * mark + "[mcp_servers.agentapi]\n[[mcp_servers.agentapi.list]]\nname = %s  #%s\n"
    old, new = (text % (item(each).as_string(), comment) for each in (value, "new"))
    assert put_in_list(old, PATH, "list", {0: {"name": "new"}}, []) == new


def test_a_list_in_another_notation_is_not_changed() -> None:
    with pytest.raises(UnsafeEditError):
        put_in_list('[mcp_servers.agentapi]\nlist = [{ name = "one" }]\n', PATH, "list", {0: {"name": "uno"}}, [])
    with pytest.raises(UnsafeEditError):
        put_in_list("mcp_servers.agentapi = {}\n", PATH, "list", {}, [{"name": "one"}])


def test_a_block_replaces_nothing() -> None:
    with pytest.raises(UnsafeEditError):
        add(BLOCK, PATH, BLOCK)
    with pytest.raises(UnsafeEditError):
        add("", PATH, "[other]\n")


@settings(deadline=None)
@given(WITHOUT)
def test_what_was_put_can_be_taken_without_a_trace(text: str) -> None:
    made = put(text, PATH, ENTRY)
    assert ours_of(made) == ENTRY
    assert remove(made, PATH) == text


@settings(deadline=None)
@given(WITHOUT | WITH)
def test_what_is_put_is_there_and_all_else_is_as_it_was(text: str) -> None:
    made = put(text, PATH, ENTRY)
    assert ours_of(made) == ENTRY
    assert others_of(made) == others_of(text)
    assert comments_of(made) == comments_of(text)
    assert put(made, PATH, ENTRY) == made
    assert ("\r\n" in made) == ("\r\n" in text)
    assert "\r\n" not in text or "\n" not in made.replace("\r\n", "")


@settings(deadline=None)
@given(WITH)
def test_what_is_taken_is_gone_and_nothing_else_is(text: str) -> None:
    left = remove(text, PATH)
    assert ours_of(left) is None
    assert others_of(left) == others_of(text)
    assert comments_of(left) == comments_of(text)
    assert remove(left, PATH) == left


def test_what_is_changed_stays_where_it_is_with_its_comments() -> None:
    text = '[mcp_servers.agentapi]\n# as I like it\ncommand = "old"  # mine\n\n[b]\nx = 1\n'
    made = put(text, PATH, {"command": "new", "args": ["a"]})
    assert made == '[mcp_servers.agentapi]\n# as I like it\ncommand = "new"  # mine\nargs = ["a"]\n\n[b]\nx = 1\n'


def test_an_inline_table_is_changed_on_its_line() -> None:
    text = 'mcp_servers = { docs = { command = "d" } }  # mine\n'
    made = put(text, PATH, {"command": "x"})
    assert made == 'mcp_servers = { docs = { command = "d" }, agentapi = {command = "x"}}  # mine\n'


@pytest.mark.parametrize(
    "text",
    [
        "mcp_servers = 3\n",
        'mcp_servers.agentapi.command = "old"\n[mcp_servers.files]\n[[many]]\n[mcp_servers.docs]\n',
    ],
)
def test_what_cannot_be_changed_alone_is_refused(text: str) -> None:
    with pytest.raises(UnsafeEditError):
        put(text, PATH, ENTRY)


async def test_the_command_line_loads_the_library_for_toml_only_where_it_is_needed() -> None:
    program = "import sys; from agentapi_mcp.cli.main import main; dict(main.commands); print('tomlkit' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "False"
