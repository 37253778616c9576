"""What holds for every command of the program."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from agentapi_mcp.cli.examples import EXAMPLES
from agentapi_mcp.cli.main import main
from agentapi_mcp.cli.options import json_option
from tests.support.command_tree import COMMANDS

WITHOUT_JSON = {
    "completion": "prints a script for a shell",
    "help": "prints what --help prints",
    "serve": "runs until it is stopped, and writes a log",
}
PROGRAM = "agentapi-mcp"
_JSON = click.command()(json_option(lambda: None)).params


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_ends_prints_json_if_asked(name: str) -> None:
    takes = {parameter.name for parameter in COMMANDS[name].params}
    assert ("as_json" in takes) is (name not in WITHOUT_JSON)


def test_json_is_asked_for_in_the_same_way_everywhere() -> None:
    (expected,) = _JSON
    for command in COMMANDS.values():
        for parameter in command.params:
            if parameter.name == "as_json":
                assert isinstance(parameter, click.Option)
                assert parameter.opts == expected.opts
                assert parameter.is_flag


def test_every_command_has_examples() -> None:
    assert sorted(EXAMPLES) == sorted(COMMANDS)


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_an_example_of_a_command_is_one_and_parses(name: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if name == "completion":  # which a shell reads
        assert re.search(rf"{PROGRAM} completion (bash|zsh|fish)", line)
        return
    words = words[words.index(PROGRAM) + 1 :]
    assert " ".join(words[: len(name.split())]) == name
    command, rest = COMMANDS[name], words[len(name.split()) :]
    with command.make_context(name, rest) as context:
        assert context.command is command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_fits_a_terminal_and_ends_with_its_examples(name: str) -> None:
    shown = CliRunner().invoke(main, [*name.split(), "--help"], prog_name=PROGRAM, terminal_width=80)
    assert shown.exit_code == 0
    assert "..." not in shown.output.replace("[ARGS]...", "").replace("]...", "").replace("S...", "")
    assert max(map(len, shown.output.splitlines())) <= 80
    _, _, examples = shown.output.partition("Examples:\n")
    assert [line.strip() for line in examples.strip().splitlines()] == list(EXAMPLES[name])
    assert (
        CliRunner().invoke(main, ["help", *name.split()], prog_name=PROGRAM, terminal_width=80).output == shown.output
    )


def test_help_without_a_command_is_that_of_the_program() -> None:
    shown = CliRunner().invoke(main, ["--help"], prog_name=PROGRAM).output
    assert CliRunner().invoke(main, ["help"], prog_name=PROGRAM).output == shown


@pytest.mark.parametrize("words", [("nosuch",), ("sessions", "nosuch"), ("doctor", "nosuch")])
def test_help_for_what_is_no_command_says_so(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, ["help", *words], prog_name=PROGRAM)
    assert shown.exit_code == 2
    assert "has no command 'nosuch'" in shown.stderr
