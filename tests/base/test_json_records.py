"""Records as JSON: what is written is read back, also by a program of another age."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.json_records import from_json, named, record_fields, to_json


class Colour(StrEnum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Part:
    """A record in a record."""

    colour: Colour
    took: timedelta = field(default=timedelta(0), metadata=named("duration"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A record with a field of each kind."""

    part: Part
    parts: tuple[Part, ...] = ()
    words: tuple[str, ...] = ()
    count: int | None = None
    amount: Decimal | None = None
    wait: timedelta | None = None
    flag: bool = False
    other: Part | None = None


MILLISECONDS = st.integers(0, 10**12).map(lambda count: timedelta(milliseconds=count))
PARTS = st.builds(Part, colour=st.sampled_from(Colour), took=MILLISECONDS)
WHOLES = st.builds(
    Whole,
    part=PARTS,
    parts=st.lists(PARTS, max_size=3).map(tuple),
    words=st.lists(st.text(), max_size=3).map(tuple),
    count=st.none() | st.integers(),
    amount=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
    wait=st.none() | MILLISECONDS,
    flag=st.booleans(),
    other=st.none() | PARTS,
)


@given(WHOLES)
def test_what_is_written_is_read_back(whole: Whole) -> None:
    assert from_json(Whole, json.loads(json.dumps(to_json(whole)))) == whole


def test_durations_are_milliseconds_and_amounts_are_what_the_caller_wants() -> None:
    whole = Whole(
        part=Part(Colour.BLUE, timedelta(seconds=1)), amount=Decimal("0.10"), wait=timedelta(microseconds=1600)
    )
    assert to_json(whole) == {
        "part": {"colour": "blue", "duration": 1000},
        "parts": [],
        "words": [],
        "count": None,
        "amount": "0.10",
        "wait_ms": 2,
        "flag": False,
        "other": None,
    }
    assert to_json(whole, amount=float)["amount"] == 0.1


def test_a_field_that_another_version_lacks_or_adds_does_no_harm() -> None:
    written = {"part": {"colour": "red", "weight": 3}, "count": 4, "shape": "round"}
    assert from_json(Whole, written) == Whole(part=Part(Colour.RED), count=4)


@dataclass(frozen=True, slots=True)
class Dated:
    """A record with a kind that JSON has no form for."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Mixed:
    """A record whose reader could not tell what was written."""

    value: int | str | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A record that could be changed."""

    values: list[str]


@pytest.mark.parametrize("record", [Dated, Mixed, Listed])
def test_a_type_that_could_not_be_read_back_is_refused(record: type[Dated | Mixed | Listed]) -> None:
    with pytest.raises(TypeError, match="a type that a record cannot have in JSON"):
        record_fields(record)
