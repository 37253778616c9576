"""What the terminal prints of a turn beside its text."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agentapi_mcp.base.ids import OrgId, SessionId, TurnId, UserId, new_id
from agentapi_mcp.cli.replies import to_reply, turn_fields
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
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


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (TURN, "The agent was not asked yet, so nothing was billed: send the same message again."),
        (replace(TURN, asked_at=NOW), "The agent had been asked: sending the same message again with --retry"),
    ],
)
def test_an_interrupted_answer_says_how_to_get_it_and_what_that_costs(turn: Turn, said: str) -> None:
    error = to_reply(turn_fields(turn), REQUEST).error
    assert error is not None
    assert error.startswith(f"The turn was interrupted. {said}")


def test_a_cancelled_answer_says_no_more_than_that() -> None:
    assert to_reply(turn_fields(replace(TURN, status=TurnStatus.CANCELLED)), REQUEST).error == "The turn was cancelled."
