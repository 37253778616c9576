"""Cursors lead on in their own list only."""

import hashlib
import json
from base64 import urlsafe_b64encode
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.cursors import decode_cursor, encode_cursor
from agentapi_mcp.core.identity.principals import Principal
from tests.support.hostile import TEXTS, json_values

ALICE = Principal(UserId(UUID(int=1)), OrgId(UUID(int=2)))
BOB = Principal(UserId(UUID(int=3)), OrgId(UUID(int=2)))
ALICE_ELSEWHERE = Principal(UserId(UUID(int=1)), OrgId(UUID(int=4)))


@pytest.mark.parametrize("position", [(), ("",), ("a", "b"), ("Ünïcode \U0001f600", "2026-01-02T03:04:05+00:00")])
def test_a_cursor_gives_back_its_position(position: tuple[str, ...]) -> None:
    assert decode_cursor(encode_cursor("agents", ALICE, position), "agents", ALICE) == position


@pytest.mark.parametrize(
    ("scope", "reader"),
    [("models", ALICE), ("agents:droid", ALICE), ("agents", BOB), ("agents", ALICE_ELSEWHERE)],
)
def test_a_cursor_of_another_list_or_principal_is_refused(scope: str, reader: Principal) -> None:
    cursor = encode_cursor("agents", ALICE, ("droid",))
    with pytest.raises(InvalidRequestError):
        decode_cursor(cursor, scope, reader)


def test_every_truncation_of_a_cursor_is_refused() -> None:
    cursor = encode_cursor("agents", ALICE, ("droid", "7"))
    for length in range(len(cursor)):
        with pytest.raises(InvalidRequestError):
            decode_cursor(cursor[:length], "agents", ALICE)


@pytest.mark.parametrize("forged", ["", "x", "droid", "AAAA", "ü", "a b", "=" * 8, "W10", "A" * 5000, "\x00", "\ud800"])
def test_a_forged_cursor_is_refused(forged: str) -> None:
    with pytest.raises(InvalidRequestError):
        decode_cursor(forged, "agents", ALICE)


def test_a_cursor_with_a_changed_character_is_refused() -> None:
    cursor = encode_cursor("agents", ALICE, ("droid",))
    for index, character in enumerate(cursor):
        other = "A" if character != "A" else "B"
        with pytest.raises(InvalidRequestError):
            decode_cursor(cursor[:index] + other + cursor[index + 1 :], "agents", ALICE)


def sealed(body: bytes) -> str:
    """Make a cursor of ALICE's agents as somebody would who has read how it is done."""
    bound = json.dumps(["agents", str(ALICE.user_id), str(ALICE.org_id)]).encode()
    seal = hashlib.sha256(hashlib.sha256(bound).digest() + body).digest()[:12]
    return urlsafe_b64encode(seal + body).rstrip(b"=").decode()


def position_of(cursor: str, scope: str = "agents", reader: Principal = ALICE) -> tuple[str, ...] | None:
    try:
        return decode_cursor(cursor, scope, reader)
    except InvalidRequestError:
        return None


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_any_position_comes_back_in_its_own_list_and_in_no_other(scope: str, position: list[str]) -> None:
    cursor = encode_cursor(scope, ALICE, position)
    if len(cursor) <= 4096:
        assert position_of(cursor, scope) == tuple(position)
    assert position_of(cursor, f"{scope} ") is None
    assert position_of(cursor, scope, BOB) is None


@given(TEXTS | st.text("ABCabc019-_=", max_size=60))
def test_no_text_is_a_cursor_but_those_that_were_given(text: str) -> None:
    assert position_of(text) is None


@given(st.text(max_size=20), st.integers(0), st.integers(1, 255))
def test_a_cursor_of_which_a_byte_is_changed_is_refused(name: str, place: int, change: int) -> None:
    raw = bytearray(encode_cursor("agents", ALICE, [name]).encode())
    raw[place % len(raw)] ^= change
    assert position_of(raw.decode("latin-1")) is None


@given(json_values().map(lambda value: json.dumps(value).encode()) | st.binary())
@example(b"")
@example(b"{}")
@example(b"[1]")
@example(b"[" * 2_000)
@example(b"\xff")
def test_a_cursor_that_somebody_sealed_is_a_list_of_texts_or_is_refused(body: bytes) -> None:
    position = position_of(sealed(body))
    assert position is None or list(position) == json.loads(body)
