"""What a request gets where an earlier turn stands in its way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId, new_id
from agentapi_mcp.core.conversations.joining import (
    SAMPLES_WITHIN,
    Asked,
    Decision,
    decide_keyed,
    decide_open,
    decide_same,
)
from agentapi_mcp.core.conversations.models import OPEN, EndReason, FoundTurn, Turn, TurnStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAME = b"same"
TURN = Turn(
    id=TurnId(new_id()),
    session_id=SessionId(new_id()),
    user_id=UserId(new_id()),
    org_id=OrgId(new_id()),
    status=TurnStatus.RUNNING,
    agent="a",
    backend="b",
    model=None,
    message="hello",
    reply="",
    created_at=NOW,
    asked_at=NOW,
)
KEYED = Asked(fingerprint=SAME, has_key=True, in_session=False)
BARE = Asked(fingerprint=SAME, has_key=False, in_session=False)
IN_SESSION = replace(BARE, in_session=True)


def found(status: TurnStatus = TurnStatus.RUNNING, *, asked: bool = True, **given: object) -> FoundTurn:
    turn = FoundTurn(
        turn=replace(TURN, status=status, asked_at=NOW if asked else None),
        fingerprint=SAME,
        owner=None,
        lease_is_over=False,
        owner_gone=False,
        caller_left=False,
        delivered=False,
        age=timedelta(0),
        replaced_by=None,
        replaces=False,
    )
    return replace(turn, **given)


# --- a turn of the same key


def test_a_key_of_another_request_is_refused_whatever_its_turn() -> None:
    for status in TurnStatus:
        other = found(status, fingerprint=b"other", lease_is_over=True)
        assert decide_keyed(other, replace(KEYED, retry=True)) is Decision.REFUSE_KEY


@pytest.mark.parametrize("status", set(TurnStatus) - {TurnStatus.INTERRUPTED})
def test_the_same_key_gets_the_same_turn(status: TurnStatus) -> None:
    assert decide_keyed(found(status), KEYED) is Decision.JOIN
    assert decide_keyed(found(status), replace(KEYED, retry=True)) is Decision.REFUSE_RETRY


def test_the_same_key_of_a_turn_whose_owner_died_settles_it() -> None:
    for status in OPEN:
        for asked in (KEYED, replace(KEYED, retry=True)):
            assert decide_keyed(found(status, lease_is_over=True), asked) is Decision.SETTLE


def test_an_interrupted_turn_is_asked_again_by_itself_only_if_it_was_not_asked() -> None:
    decisions = ((decide_keyed, KEYED), (partial(decide_same, has_waited=False), BARE))
    for decide, asked in decisions:
        assert decide(found(TurnStatus.INTERRUPTED, asked=False), asked) is Decision.ASK_AGAIN
        assert decide(found(TurnStatus.INTERRUPTED), asked) is Decision.JOIN
        assert decide(found(TurnStatus.INTERRUPTED), replace(asked, retry=True)) is Decision.ASK_AGAIN


def test_a_turn_that_nobody_waited_for_is_asked_again_by_a_retry_with_its_key_alone() -> None:
    for asked_at in (None, NOW):
        given_up = found(TurnStatus.CANCELLED)
        turn = replace(given_up.turn, end_reason=EndReason.ABANDONED, asked_at=asked_at)
        given_up = replace(given_up, turn=turn)
        assert decide_keyed(given_up, KEYED) is Decision.JOIN
        assert decide_keyed(given_up, replace(KEYED, retry=True)) is Decision.ASK_AGAIN


# --- a turn of the same request


@pytest.mark.parametrize("has_waited", [False, True])
def test_a_turn_whose_caller_left_is_joined_whatever_its_age(*, has_waited: bool) -> None:
    for status in (*OPEN, TurnStatus.COMPLETED):
        for age in (timedelta(0), timedelta(days=1)):
            left = found(status, caller_left=True, age=age)
            assert decide_same(left, BARE, has_waited=has_waited) is Decision.JOIN


@pytest.mark.parametrize("has_waited", [False, True])
def test_a_turn_whose_owner_has_left_the_store_is_joined_whatever_its_age(*, has_waited: bool) -> None:
    for status in OPEN:
        assert decide_same(found(status, owner_gone=True), BARE, has_waited=has_waited) is Decision.JOIN


def test_a_turn_whose_caller_waits_is_joined_from_one_second_on() -> None:
    just, not_yet = SAMPLES_WITHIN, SAMPLES_WITHIN - timedelta(microseconds=1)
    for has_waited in (False, True):
        assert decide_same(found(age=just), BARE, has_waited=has_waited) is Decision.JOIN
    assert decide_same(found(age=not_yet), BARE, has_waited=False) is Decision.AWAIT_NEWS
    assert decide_same(found(age=not_yet), BARE, has_waited=True) is Decision.BEGIN


def test_an_answer_that_may_be_arriving_is_waited_for_before_it_is_given_again() -> None:
    for asked in (BARE, IN_SESSION):
        ended = found(TurnStatus.COMPLETED, age=timedelta(minutes=1))
        assert decide_same(ended, asked, has_waited=False) is Decision.AWAIT_NEWS
        assert decide_same(ended, asked, has_waited=True) is Decision.JOIN
    assert decide_same(found(TurnStatus.COMPLETED), BARE, has_waited=True) is Decision.BEGIN


def test_in_one_session_the_same_message_joins_at_once() -> None:
    for has_waited in (False, True):
        assert decide_same(found(), IN_SESSION, has_waited=has_waited) is Decision.JOIN
    assert decide_same(found(TurnStatus.COMPLETED), IN_SESSION, has_waited=True) is Decision.JOIN


def test_a_turn_of_the_same_request_whose_owner_died_is_settled() -> None:
    for asked in (BARE, IN_SESSION, replace(BARE, retry=True)):
        assert decide_same(found(lease_is_over=True), asked, has_waited=False) is Decision.SETTLE


def test_a_retry_of_what_was_not_interrupted_is_refused() -> None:
    for status in (*OPEN, TurnStatus.COMPLETED):
        asked = replace(BARE, retry=True)
        assert decide_same(found(status, caller_left=True), asked, has_waited=True) is Decision.REFUSE_RETRY


# --- the open turn of the session


def test_a_session_that_answers_another_message_is_busy() -> None:
    other = found(fingerprint=b"other")
    for asked in (IN_SESSION, replace(IN_SESSION, has_key=True), replace(IN_SESSION, new=True)):
        assert decide_open(other, asked) is Decision.REFUSE_BUSY
        assert decide_open(replace(other, lease_is_over=True), asked) is Decision.SETTLE


def test_a_session_that_answers_the_same_message_for_another_client_is_joined_unless_asked_anew() -> None:
    assert decide_open(found(), IN_SESSION) is Decision.JOIN
    assert decide_open(found(), replace(IN_SESSION, new=True)) is Decision.REFUSE_BUSY
    assert decide_open(found(), replace(IN_SESSION, has_key=True)) is Decision.REFUSE_BUSY


def test_a_turn_that_ended_meanwhile_is_in_nobodys_way() -> None:
    assert decide_open(found(TurnStatus.COMPLETED, fingerprint=b"other"), IN_SESSION) is Decision.BEGIN


def test_a_retry_that_is_repeated_joins_the_turn_that_it_began() -> None:
    for status in (TurnStatus.RUNNING, TurnStatus.COMPLETED):
        assert decide_keyed(found(status, replaces=True), replace(KEYED, retry=True)) is Decision.JOIN
        asked = Asked(fingerprint=SAME, has_key=False, in_session=False, retry=True)
        assert decide_same(found(status, replaces=True), asked, has_waited=False) is Decision.JOIN


def test_a_request_that_may_have_been_sent_again_is_no_sample() -> None:
    late = Asked(fingerprint=SAME, has_key=False, in_session=False, late=True)
    assert decide_same(found(TurnStatus.RUNNING), late, has_waited=False) is Decision.JOIN
    assert decide_same(found(TurnStatus.RUNNING), replace(late, late=False), has_waited=True) is Decision.BEGIN
