"""Arguments that do not fit are refused with their name and what there is instead."""

import math

import pytest

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.edges.mcp.tools.arguments import Argument, check_arguments

ARGUMENTS = (
    Argument(name="text", about="", required=True),
    Argument(name="count", kind="integer", about="", least=0, most=240),
    Argument(name="heat", kind="number", about="", least=0, most=2),
    Argument(name="form", about="", one_of=("markdown", "json")),
)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs the argument 'text'"),
        ({"text": None}, "needs the argument 'text'"),
        ({"text": 1}, "text must be a string"),
        ({"text": "x", "count": "3"}, "count must be a whole number"),
        ({"text": "x", "count": True}, "count must be a whole number"),
        ({"text": "x", "count": 1.5}, "count must be a whole number"),
        ({"text": "x", "count": -1}, "count must be between 0 and 240"),
        ({"text": "x", "count": 10**30}, "count must be between 0 and 240"),
        ({"text": "x", "heat": math.nan}, "heat must be between 0 and 2"),
        ({"text": "x", "heat": math.inf}, "heat must be between 0 and 2"),
        ({"text": "x", "heat": [1]}, "heat must be a number"),
        ({"text": "x", "form": "pdf"}, "form must be one of markdown, json"),
        ({"text": "x", "txet": "y"}, "tool has no argument 'txet'; it takes text, count, heat, form"),
        ({"text": "x", "\ud800" * 90: "y"}, "it takes text, count, heat, form"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(given: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_arguments("tool", ARGUMENTS, given)
    assert said in str(caught.value)
    assert str(caught.value).encode()
    assert len(str(caught.value)) < 200


def test_null_is_as_if_it_were_left_out_and_a_whole_float_is_an_integer() -> None:
    given = check_arguments("tool", ARGUMENTS, {"text": "x", "count": 3.0, "heat": None})
    assert (given.text("text"), given.find_integer("count"), given.find_number("heat")) == ("x", 3, None)
