"""Untrusted JSON is bounded before it is parsed, by what it would be parsed to and not by how it is written."""

import json
import re
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.json_bounds import JsonBounds, JsonBoundsError
from agentapi_mcp.base.json_values import load_json
from agentapi_mcp.testing.hostile import HOSTILE_TEXTS

SMALL = JsonBounds(containers=6, values=8, depth=3, number=5)
TEXTS = st.text(alphabet='[]{},"\\:au\u0430\n09e-.', max_size=12) | st.sampled_from(HOSTILE_TEXTS)
NUMBERS = st.integers(-(10**8), 10**8) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=14,
)


def children(value: object) -> list[object] | None:
    """List what a container holds; None for a scalar."""
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else None


def containers(value: object) -> int:
    """Count arrays and objects."""
    inner = children(value)
    return 0 if inner is None else 1 + sum(map(containers, inner))


def depth(value: object) -> int:
    """Measure the nesting."""
    inner = children(value)
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def commas(value: object) -> int:
    """Count the commas between values, in all containers."""
    inner = children(value) or []
    return max(0, len(inner) - 1) + sum(map(commas, inner))


def strings(value: object) -> int:
    """Count strings, names included."""
    inner = children(value) or []
    return isinstance(value, str) + (len(inner) if isinstance(value, dict) else 0) + sum(map(strings, inner))


def longest_number(value: object) -> int:
    """Return the number of characters of the longest number."""
    inner = children(value)
    if inner is not None:
        return max(map(longest_number, inner), default=0)
    return len(json.dumps(value)) if isinstance(value, int | float) and not isinstance(value, bool) else 0


@given(value=DOCUMENTS, escaped=st.booleans())
def test_what_is_refused_exceeds_a_bound_and_what_passes_exceeds_none(value: object, escaped: bool) -> None:  # noqa: FBT001  # a parameter
    text = json.dumps(value, ensure_ascii=escaped)
    exceeds = (
        containers(value) > SMALL.containers
        or depth(value) > SMALL.depth
        or commas(value) > SMALL.values
        or longest_number(value) > SMALL.number
        or (strings(value) > SMALL.values and is_scanned(text))
    )
    for document in (text, text.encode("utf-8", "surrogatepass")):
        try:
            SMALL.check(document)
        except JsonBoundsError:
            assert exceeds
        else:
            assert not exceeds


def is_scanned(text: str) -> bool:
    """Return whether a text is looked at closely; one of few brackets and commas holds few strings."""
    has_long_run = re.search(rf"[-+.\deE]{{{SMALL.number + 1}}}", text, re.ASCII) is not None
    return text.count("[") + text.count("{") > SMALL.depth or text.count(",") > SMALL.values or has_long_run


@given(st.text(alphabet='[]{},"\\a019.-e', max_size=60))
def test_whatever_passes_parses_to_something_within_the_bounds(text: str) -> None:
    floats = list[str]()
    try:
        value = load_json(text, parse_float=floats.append, bounds=SMALL)
    except ValueError:
        return
    assert (containers(value) <= SMALL.containers, depth(value) <= SMALL.depth) == (True, True)
    assert commas(value) <= SMALL.values
    assert max(longest_number(value), *map(len, floats), 0) <= SMALL.number


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"[" + b"[]," * 20_000 + b"1]", "has more than 20,000 arrays and objects"),
        (b"]" * 20_001 + b"[" * 65, "has more than 20,000 arrays and objects"),
        (b"[" + b'"",' * 20_001 + b"1]", "has more than 20,000 values"),
        (b"[" + b"1," * 20_001 + b"1]", "has more than 20,000 values"),
        (b'{"a":' + b"1" * 101 + b"}", "has a number of more than 100 characters"),
        (b"[-0." + b"0" * 95 + b"1e2]", "has a number of more than 100 characters"),
        (b"[1, " + b"1" * 4_000_000 + b"]", "has a number of more than 100 characters"),
        (b"1" * 101, "has a number of more than 100 characters"),
        (b"[" * 65 + b"]" * 65, "is nested more than 64 deep"),
        (b"[1e9," * 65 + b"1" + b"]" * 65, "is nested more than 64 deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "is nested more than 64 deep"),
    ],
)
def test_what_would_cost_is_refused_with_the_bound_that_it_exceeds(document: bytes, reason: str) -> None:
    for each in (document, bytearray(document), document.decode()):
        with pytest.raises(JsonBoundsError, match=reason):
            load_json(each)


@pytest.mark.parametrize(
    "text",
    [
        "[{," * 300_000,
        "1" * 300_000,
        "1e-2," * 300_000,
        '"' * 300_000,
        "\\" * 300_000,
        '\\"[' * 300_000,
        "a,b{c]\n" * 100_000,
    ],
)
def test_a_long_message_may_hold_anything_within_its_string(text: str) -> None:
    assert load_json(json.dumps({"message": text, "more": [1, {"a": [[]]}]}).encode()) == {
        "message": text,
        "more": [1, {"a": [[]]}],
    }


def test_an_escaped_backslash_before_a_quote_hides_no_end_of_a_string() -> None:
    texts = ["a\\", "[" * 300_000, '\\"', '"\\', "{" * 300_000]
    assert load_json(json.dumps(texts)) == texts


def test_what_is_just_within_the_bounds_is_parsed() -> None:
    assert depth(load_json(b"[" * 64 + b"]" * 64)) == 64
    assert containers(load_json(b"[" + b"[]," * 19_998 + b"[]]")) == 20_000
    assert strings(load_json(b"[" + b'"",' * 19_999 + b'""]')) == 20_000
    assert load_json(b'{"1": "' + b"1" * 101 + b'", "2":[' + b"1" * 100 + b"," + b"2" * 100 + b"]}") == {
        "1": "1" * 101,
        "2": [int("1" * 100), int("2" * 100)],
    }
