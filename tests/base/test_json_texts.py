"""JSON that is written: what a program reads from it is what was given."""

import json
import math
from uuid import uuid4

from asyncpg.pgproto.pgproto import UUID as DatabaseId  # noqa: N811  # not a constant
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.json_texts import json_text
from agentapi_mcp.core.conversations.models import TurnStatus

TEXTS = st.text(st.characters())  # lone surrogates, too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    assert json.loads(json_text(value)) == value


@given(st.sampled_from(["a", "\ud800"]))
def test_ids_and_choices_are_their_texts(beside: str) -> None:
    own, stored = uuid4(), DatabaseId(str(uuid4()))
    given_ = {"own": own, "stored": stored, "status": TurnStatus.COMPLETED, "beside": beside}
    read = {"own": str(own), "stored": str(stored), "status": "completed", "beside": beside}
    assert json.loads(json_text(given_)) == read


def test_what_json_cannot_say_is_not_turned_into_something_else() -> None:
    # As `null` it would be taken for what is unknown; Postgres refuses this.
    assert json_text({"a": math.nan, "b": -math.inf}) == '{"a":NaN,"b":-Infinity}'
