"""Arguments with one meaning are taken; others are refused with their name and what there is instead."""

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given as draw
from hypothesis import strategies as st

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.json_values import is_list
from agentapi_mcp.edges.mcp.tools.arguments import Argument, Kind, check_arguments

ARGUMENTS = (
    Argument(name="text", about="", required=True),
    Argument(name="count", kind="integer", about="", least=0, most=240),
    Argument(name="heat", kind="number", about="", least=0, most=2),
    Argument(name="form", about="", one_of=("markdown", "json")),
    Argument(name="session_id", about=""),
    Argument(name="said", about="", verbatim=True),
    Argument(name="most_tokens", kind="integer", about="", least=1),
    Argument(name="again", kind="boolean", about=""),
    Argument(name="names", kind="array", about=""),
    Argument(name="value", about="", scalar=True),
)
TAKES = "text, count, heat, form, session_id, said, most_tokens, again, names, value"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs the argument 'text'"),
        ({"text": None}, "needs the argument 'text'"),
        ({"text": 1.5}, "text must be a string, not 1.5."),
        ({"text": True}, "text must be a string, not true."),
        ({"text": 10**60}, "text must be a string, not 1000"),
        ({"text": "x", "count": "3x"}, 'count must be a whole number between 0 and 240, not "3x".'),
        ({"text": "x", "count": "010"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": "1,5"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": "1_0"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": "0x10"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": "\u0665"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": "1\u0665"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "most_tokens": "1" * 41}, "most_tokens must be a whole number of at least 1, not"),
        ({"text": "x", "count": "1" * 41}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": "true"}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "count": True}, "count must be a whole number between 0 and 240, not true."),
        ({"text": "x", "count": 1.5}, "count must be a whole number between 0 and 240, not 1.5."),
        ({"text": "x", "count": "1.5"}, 'count must be a whole number between 0 and 240, not "1.5".'),
        ({"text": "x", "count": -1}, "count must be a whole number between 0 and 240, not -1."),
        ({"text": "x", "count": 10**30}, "count must be a whole number between 0 and 240, not"),
        ({"text": "x", "most_tokens": "1e400"}, 'most_tokens must be a whole number of at least 1, not "1e400".'),
        ({"text": "x", "most_tokens": 0}, "most_tokens must be a whole number of at least 1, not 0."),
        ({"text": "x", "heat": math.nan}, "heat must be a number between 0 and 2, not NaN."),
        ({"text": "x", "heat": "nan"}, "heat must be a number between 0 and 2, not"),
        ({"text": "x", "heat": math.inf}, "heat must be a number between 0 and 2, not Infinity."),
        ({"text": "x", "heat": [1]}, "heat must be a number between 0 and 2, not a list"),
        ({"text": "x", "heat": {}}, "heat must be a number between 0 and 2, not an object."),
        ({"text": "x", "form": "pdf"}, 'form must be one of markdown, json, not "pdf".'),
        ({"text": "x", "again": "yes"}, 'again must be true or false, not "yes".'),
        ({"text": "x", "again": 1}, "again must be true or false, not 1."),
        ({"text": "x", "names": "a, b"}, 'names must be a list of strings, not "a, b".'),
        ({"text": "x", "names": "[a"}, 'names must be a list of strings, not "[a".'),
        ({"text": "x", "names": ["a", 1]}, "names must be a list of strings, not a list with other values."),
        ({"text": "x", "txet": "y"}, f"tool has no argument 'txet'; it takes {TAKES}."),
        ({"text": "x", "said" + " " * 40 + "!": "y"}, "it takes"),
        ({"text": "x", "value": {}}, "value must be a string, not an object."),
        ({"text": "x", "\ud800" * 90: "y"}, f"it takes {TAKES}."),
        ({"text": "x", "session_id": "a", "sessionId": "b"}, "was given session_id twice, with different values."),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed_and_what_was_sent(given: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_arguments("tool", ARGUMENTS, given)
    assert said in str(caught.value)
    assert str(caught.value).encode()
    assert len(str(caught.value)) < 250


def test_null_is_as_if_it_were_left_out_and_a_whole_float_is_an_integer() -> None:
    given = check_arguments("tool", ARGUMENTS, {"text": "x", "count": 3.0, "heat": None})
    assert (given.text("text"), given.find_integer("count"), given.find_number("heat")) == ("x", 3, None)


@pytest.mark.parametrize(
    ("lenient", "taken"),
    [
        ({"text": 42}, {"text": "42"}),
        ({"session_id": "a", "sessionId": "a"}, {"session_id": "a"}),
        ({"SessionID": None, "session-id": "a"}, {"session_id": "a"}),
        ({"form": "Markdown "}, {"form": "markdown"}),
        ({"names": '["a", "b"]'}, {"names": ("a", "b")}),
        ({"said": "none"}, {"said": "none"}),
        ({"said": "  "}, {}),
        ({"session_id": " " * 41}, {"session_id": " " * 41}),
        ({"text": "null"}, {"text": "null"}),
        ({"text": ""}, {"text": ""}),
        ({"value": 0.5}, {"value": "0.5"}),
        ({"value": 5}, {"value": "5"}),
        ({"value": True}, {"value": "true"}),
        ({"value": "None"}, {}),
    ],
)
def test_other_forms_of_one_meaning_are_taken(lenient: dict[str, object], taken: dict[str, object]) -> None:
    assert values({"text": "x"} | lenient) == {"text": "x"} | taken


def values(given: dict[str, object]) -> dict[str, object]:
    """Return what is taken of a call."""
    return dict(check_arguments("tool", ARGUMENTS, given).values)


STRICT: dict[Kind, st.SearchStrategy[object]] = {
    "integer": st.integers(0, 240),
    "number": st.floats(0, 2) | st.integers(0, 2),
    "boolean": st.booleans(),
    "array": st.lists(st.text(st.characters(codec="utf-8", exclude_characters=",["), min_size=1), max_size=3),
}
LENIENT: dict[Kind, list[Callable[[object], object]]] = {
    "integer": [str, lambda value: f" {value}.0 ", lambda value: f"{value}e0", lambda value: float(str(value))],
    "number": [json.dumps, lambda value: f"{json.dumps(value)} "],
    "boolean": [str, json.dumps, lambda value: str(value).upper()],
    "array": [json.dumps, lambda value: value[0] if is_list(value) and len(value) == 1 else value],
}
NAMES: dict[Kind, str] = {"integer": "count", "number": "heat", "boolean": "again", "array": "names"}


@draw(st.data(), st.sampled_from(sorted(NAMES.items())))
def test_a_text_that_reads_as_the_value_is_the_value(data: st.DataObject, argument: tuple[Kind, str]) -> None:
    kind, name = argument
    strict = data.draw(STRICT[kind])
    lenient = data.draw(st.sampled_from(LENIENT[kind]))(strict)
    assert values({"text": "x", name: lenient}) == values({"text": "x", name: strict})


SPELLINGS: list[Callable[[str], str]] = [
    str.upper,
    str.title,
    lambda name: name.replace("_", "-"),
    lambda name: name.replace("_", " "),
    lambda name: "".join(word.title() for word in name.split("_")),
    lambda name: name.replace("_", ""),
]


@draw(
    st.sampled_from([argument.name for argument in ARGUMENTS if argument.kind == "string"]), st.sampled_from(SPELLINGS)
)
def test_an_argument_is_known_in_another_spelling(name: str, spelled: Callable[[str], str]) -> None:
    given: dict[str, object] = {"text": "x"} if name != "text" else {}
    assert values(given | {spelled(name): "json"}) == values(given | {name: "json"})


NOTHING = st.sampled_from([None, "", " ", "null", "None", "NONE", "undefined", "nil"])


@draw(NOTHING, st.sampled_from(["count", "heat", "form", "session_id", "most_tokens", "again", "names"]))
def test_the_words_of_models_for_nothing_leave_an_optional_argument_out(nothing: str | None, name: str) -> None:
    assert values({"text": "x", name: nothing}) == {"text": "x"}


@draw(st.text(max_size=60), st.sampled_from(["count", "heat", "again"]))
def test_what_is_taken_of_a_text_is_what_it_says(text: str, name: str) -> None:
    try:
        taken = values({"text": "x", name: text}).get(name)
    except InvalidRequestError:
        return
    assert taken is None or json.loads(text.strip().casefold()) == taken
