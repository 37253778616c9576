"""A command is one module, which is imported when the command is asked for and not before."""

import asyncio
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature

import click
import pytest
from click.testing import CliRunner

from agentapi_mcp.cli import commands
from agentapi_mcp.cli.commands import GROUPS, SUMMARIES
from agentapi_mcp.cli.main import CommandModules, main
from tests.support.command_tree import COMMANDS

NAMES = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


async def loaded_after(*words: str) -> set[str]:
    """Return the modules that a new process has loaded after it ran the command line with these words."""
    program = (
        "import sys; from agentapi_mcp.cli.main import main; "
        "main(sys.argv[1:], standalone_mode=False); print(); print('#', *sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *words, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return set(out.decode().rpartition("\n# ")[2].split())


def of_commands(loaded: set[str]) -> set[str]:
    return {name.partition(f"{commands.__name__}.")[2] for name in loaded} - {""}


@pytest.mark.parametrize("name", NAMES)
def test_a_module_of_commands_has_the_command_of_its_name(name: str) -> None:
    command = CommandModules()[name]
    assert isinstance(command, click.Command)
    assert command.name == name


def test_the_help_lists_every_module_of_commands_in_a_line_of_its_own() -> None:
    assert len(NAMES) > 10
    assert main.list_commands(click.Context(main)) == NAMES
    shown = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    for name in NAMES:
        assert re.search(rf"^  {name} +{re.escape(SUMMARIES[name])}$", shown, re.MULTILINE), name
    assert re.findall(r"^(\w.*):$", shown, re.MULTILINE) == ["Options", *GROUPS]
    assert "..." not in shown.partition("Options:")[2]


async def test_a_command_imports_no_other_command_and_no_protocol() -> None:
    loaded = await loaded_after("keys", "list", "--help")
    assert of_commands(loaded) == {"keys"}
    assert loaded & {"mcp", "mcp_types", "starlette", "uvicorn"} == set()


async def test_chat_imports_the_client_of_mcp_only_where_it_goes_through_mcp() -> None:
    loaded = await loaded_after("chat", "--help")
    assert of_commands(loaded) == {"chat"}
    assert loaded & {"mcp", "mcp_types"} == set()


def test_a_command_that_is_none_is_refused_with_what_may_be_meant() -> None:
    refused = CliRunner().invoke(main, ["sesions"])
    assert refused.exit_code == 2
    assert "No such command 'sesions'. Did you mean 'sessions'?" in refused.output


@pytest.mark.parametrize("word", ["cost", "History", "budget"])
def test_what_people_look_for_is_named(word: str) -> None:
    refused = CliRunner().invoke(main, [word])
    assert refused.exit_code == 2
    assert f"What you look for may be `agentapi-mcp {commands.LOOKED_FOR[word.lower()]}`" in refused.output


def test_what_people_look_for_is_there() -> None:
    assert set(commands.LOOKED_FOR.values()) <= {*COMMANDS, "--version"}
    assert not commands.LOOKED_FOR.keys() & set(NAMES)


def test_an_added_command_is_found_and_a_removed_one_is_not() -> None:
    there = CommandModules()
    there["extra"] = click.Command("extra")
    del there["keys"]
    assert there["extra"].name == "extra"
    assert "keys" not in there
    assert len(there) == len(NAMES)


async def test_no_command_but_serve_loads_the_mcp_sdk_before_it_speaks_mcp() -> None:
    program = (
        "import sys; from agentapi_mcp.cli.main import main; "
        "[main([name, '--help'], standalone_mode=False) for name in sys.argv[1:]]; print(); print('#', *sys.modules)"
    )
    names = [name for name in NAMES if name != "serve"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *names, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    loaded = set(out.decode().rpartition("\n# ")[2].split())
    assert {f"agentapi_mcp.cli.commands.{name}" for name in names} <= loaded
    assert {"mcp", "mcp_types"} & loaded == set()


def all_commands(command: click.Command) -> Iterator[click.Command]:
    """Yield a command and those below it."""
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from all_commands(below)


@pytest.mark.parametrize("name", NAMES)
def test_the_function_of_a_command_takes_what_its_options_are_called(name: str) -> None:
    for command in all_commands(CommandModules()[name]):
        if command.callback is not None:
            given = dict.fromkeys(option.name or "" for option in command.params if option.expose_value)
            own = signature(command.callback, follow_wrapped=False)  # click may pass its context besides
            assert own.bind(**given)
