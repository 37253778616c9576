"""What the terminal prints of a turn beside its text."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId, new_id
from agentapi_mcp.cli.replies import to_reply, turn_fields
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = ChatRequest(message="hello")
TURN = Turn(
    id=TurnId(new_id()),
    session_id=SessionId(new_id()),
    user_id=UserId(new_id()),
    org_id=OrgId(new_id()),
    status=TurnStatus.INTERRUPTED,
    agent="droid",
    backend="openai",
    model=None,
    message="hello",
    reply="so f",
    created_at=NOW,
)
GIVEN_UP = replace(TURN, status=TurnStatus.CANCELLED, end_reason=EndReason.ABANDONED)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (TURN, "The agent was not asked yet, so nothing was billed: send the same message again."),
        (replace(TURN, asked_at=NOW), "The agent had been asked: sending the same message again with --retry"),
        (
            replace(GIVEN_UP, joined=True),
            "It was stopped because nobody waited for it: sending the same message with --retry",
        ),
    ],
)
def test_an_answer_that_can_be_retried_says_so_and_what_that_costs(turn: Turn, said: str) -> None:
    reply = to_reply(turn_fields(turn), REQUEST)
    assert reply.error is not None
    assert reply.error.startswith(f"The turn was {turn.status}. {said}")
    assert "--new" not in (reply.joined or "")


def test_an_answer_that_was_cancelled_just_now_says_no_more_than_that() -> None:
    for turn in (replace(TURN, status=TurnStatus.CANCELLED), GIVEN_UP):
        assert to_reply(turn_fields(turn), REQUEST).error == "The turn was cancelled."
