"""What holds for every command of the program."""

import click
import pytest

from agentapi_mcp.cli.options import json_option
from tests.support.command_tree import COMMANDS

WITHOUT_JSON = {
    "serve": "runs until it is stopped, and writes a log",
}
# Parameters that take the id of something, and those that are asked before it is known who asks: whole ids alone.
IDS = {"session_id", "turn_id", "which", "user"}
WHOLE = {"org_id": "selects the organisation that ids are looked for in", "user_id": "selects who looks for ids"}
_JSON = click.Command("any", params=json_option(lambda: None).__click_params__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_ends_prints_json_if_asked(name: str) -> None:
    takes = {parameter.name for parameter in COMMANDS[name].params}
    assert ("as_json" in takes) is (name not in WITHOUT_JSON)


def test_json_is_asked_for_in_the_same_way_everywhere() -> None:
    (expected,) = _JSON.params
    for command in COMMANDS.values():
        for parameter in command.params:
            if parameter.name == "as_json":
                assert isinstance(parameter, click.Option)
                assert parameter.opts == expected.opts
                assert parameter.is_flag
