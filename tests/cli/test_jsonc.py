"""Settings of editors are changed at one place, and nothing else of them is."""

import json
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentapi_mcp.cli.jsonc import JsoncError, parse, put, remove

PATH = ("mcpServers", "agentapi")
ENTRY = {"command": "/opt/agentapi-mcp", "args": ["a", "b"], "env": {"KEY": "x"}}
KEYS = st.text(max_size=5) | st.sampled_from(["mcpServers", "agentapi", "other"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
GAPS = st.sampled_from(["", " ", "\n", "\r\n\t", '  // it\'s, {a} "comment"\n', "/* , } */", "\n\n    "])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Write an object as a person might: with comments, trailing commas and spaces of any kind."""
    servers = draw(st.dictionaries(KEYS, VALUES, max_size=3))
    document = draw(st.dictionaries(KEYS, VALUES, max_size=3)) | {"mcpServers": servers}
    return draw(GAPS) + _written(draw, document) + draw(GAPS)


def _written(draw: st.DrawFn, value: object) -> str:
    gap = lambda: draw(GAPS)  # noqa: E731  # a short name for what is said often
    if isinstance(value, dict):
        members = [
            f"{gap()}{json.dumps(key)}{gap()}:{gap()}{_written(draw, one)}{gap()}"
            for key, one in cast("dict[str, object]", value).items()
        ]
        return "{" + ",".join(members) + (f",{gap()}" if members and draw(st.booleans()) else gap()) + "}"
    if isinstance(value, list):
        items = [f"{gap()}{_written(draw, one)}{gap()}" for one in cast("list[object]", value)]
        return "[" + ",".join(items) + (f",{gap()}" if items and draw(st.booleans()) else gap()) + "]"
    return json.dumps(value)


def document_of(text: str) -> dict[str, dict[str, object]]:
    return cast("dict[str, dict[str, object]]", parse(text).value)


@settings(deadline=None)
@given(documents())
def test_what_is_put_is_there_and_all_else_is_as_it_was(text: str) -> None:
    before = document_of(text)
    after = document_of(put(text, PATH, ENTRY))
    assert after == before | {"mcpServers": before["mcpServers"] | {"agentapi": ENTRY}}
    assert put(put(text, PATH, ENTRY), PATH, ENTRY) == put(text, PATH, ENTRY)


@settings(deadline=None)
@given(documents())
def test_what_is_taken_is_gone_and_nothing_else_is(text: str) -> None:
    before = document_of(text)
    kept = {key: value for key, value in before["mcpServers"].items() if key != "agentapi"}
    assert document_of(remove(text, PATH)) == before | {"mcpServers": kept}


def test_of_equal_keys_none_is_left() -> None:
    text = '{"mcpServers": {"agentapi": {"a": 1}, "x": {}, "agentapi": {"b": 2}}}'
    assert document_of(remove(text, PATH)) == {"mcpServers": {"x": {}}}


@settings(deadline=None)
@given(documents())
def test_what_was_put_can_be_taken_without_a_trace(text: str) -> None:
    servers = document_of(text)["mcpServers"]
    if servers and "agentapi" not in servers:
        assert remove(put(text, PATH, ENTRY), PATH) == text


@settings(deadline=None)
@given(st.text(alphabet='{}[]",:/*\\ \n01ae-', max_size=30))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        node = parse(text)
    except JsoncError as error:
        refused = error
    else:
        assert text[node.start : node.end]
        return
    assert 1 <= refused.line <= text.count("\n") + 1


@settings(deadline=None)
@given(VALUES)
def test_json_is_read_as_json(value: object) -> None:
    assert parse(json.dumps(value, indent=1)).value == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", '{\n  "mcpServers": {\n    "agentapi": 1\n  }\n}\n'),
        ("{}", '{\n  "mcpServers": {\n    "agentapi": 1\n  }\n}'),
        ('{"a": 1}', '{"a": 1, "mcpServers": {"agentapi": 1}}'),
        (
            '{\n    "mcpServers": {\n        "x": 1 // mine\n    }\n}\n',
            '{\n    "mcpServers": {\n        "x": 1, // mine\n        "agentapi": 1\n    }\n}\n',
        ),
        (
            '{\n\t"mcpServers": {\n\t\t"x": 1,\n\t\t// more to come\n\t},\n}\n',
            '{\n\t"mcpServers": {\n\t\t"x": 1,\n\t\t// more to come\n\t\t"agentapi": 1,\n\t},\n}\n',
        ),
        ('{\r\n  "a": 1\r\n}', '{\r\n  "a": 1,\r\n  "mcpServers": {\r\n    "agentapi": 1\r\n  }\r\n}'),
    ],
)
def test_it_is_written_as_its_neighbours_are(text: str, said: str) -> None:
    assert put(text, PATH, 1) == said


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1 "b": 2}', "line 1, column 9: ',' or '}' is expected"),
        ("{\n  a: 1}", "line 2, column 3: a key in double quotes or '}' is expected"),
        ('{"a": [1, 2}', "line 1, column 12: ',' or ']' is expected"),
        ('{"a": 1} x', "line 1, column 10: the end is expected"),
        ('{"a": "x', "line 1, column 7: the end of a text is expected"),
        ("[" * 1000, "column 202: at most 200 levels is expected"),
        ("{} /* and", "*/ is expected"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, place: str) -> None:
    with pytest.raises(JsoncError) as refused:
        parse(text)
    assert place in str(refused.value)


def test_what_is_no_object_is_not_replaced() -> None:
    with pytest.raises(JsoncError, match="an object is expected"):
        put('{"mcpServers": []}', PATH, 1)
