"""Cursors lead on in their own list only."""

from uuid import UUID

import pytest

from agentapi_mcp.core.cursors import decode_cursor, encode_cursor
from agentapi_mcp.core.errors import InvalidRequestError
from agentapi_mcp.core.identity import OrgId, Principal, UserId

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
    for index, character in enumerate(cursor[:-1]):
        other = "A" if character != "A" else "B"
        with pytest.raises(InvalidRequestError):
            decode_cursor(cursor[:index] + other + cursor[index + 1 :], "agents", ALICE)
