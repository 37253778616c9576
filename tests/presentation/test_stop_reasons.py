"""Why an answer is not whole, in words: for each reason, in every form of a turn."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.ids import MessageId
from agentapi_mcp.cli.replies import to_reply
from agentapi_mcp.cli.replies import turn_fields as command_fields
from agentapi_mcp.core.backends.events import StopReason, Usage
from agentapi_mcp.core.backends.models import MessageRole
from agentapi_mcp.core.conversations.models import Message, Session, Turn, TurnCost, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.sessions import Transcript
from agentapi_mcp.edges.mcp.tools.turn_results import turn_result
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.presentation.turns import turn_json, warning_of
from tests.edges.mcp.test_turn_results import a_turn, texts
from tests.support.connect import fields_of

MESSAGE_IDS = (MessageId(UUID(int=1)), MessageId(UUID(int=2)))
NOT_WHOLE = [reason for reason in StopReason if reason is not StopReason.END]


def ended(reason: StopReason | None, *, warning: str | None = None, reply: str = "so far") -> Turn:
    return replace(a_turn(reply), stop_reason=reason, warning=warning)


def transcript(turn: Turn, *, answered: bool) -> Transcript:
    """Return a session with the question, and with the answer where there is one."""
    session = Session(
        id=turn.session_id,
        title="A title",
        agent="droid",
        model=None,
        metadata={},
        created_at=turn.created_at,
        last_message_at=turn.created_at,
    )
    turn = replace(turn, last_message_id=MESSAGE_IDS[-1 if answered else 0])
    said = ((MessageRole.USER, turn.message), (MessageRole.ASSISTANT, turn.reply))[: 2 if answered else 1]
    messages = tuple(
        Message(
            id=id_,
            session_id=session.id,
            role=role,
            content=content,
            created_at=turn.created_at,
            tokens_in=None,
            tokens_out=None,
            metadata={},
            turn=turn,
        )
        for id_, (role, content) in zip(MESSAGE_IDS, said, strict=False)
    )
    return Transcript(session, messages, None)


@pytest.mark.parametrize("reason", NOT_WHOLE)
def test_every_reason_but_the_end_has_words_that_say_what_to_do_or_fear(reason: StopReason) -> None:
    words = warning_of(ended(reason))
    assert words
    assert any(hint in words for hint in ("ask it to go on", "ask for one", "reword", "may not be whole"))
    assert not set(words) & set("{}")


def test_a_whole_answer_has_no_warning_but_that_of_its_backend() -> None:
    for reason in (StopReason.END, None):
        assert warning_of(ended(reason)) is None
        assert warning_of(ended(reason, warning="as it came")) == "as it came"


@pytest.mark.parametrize("status", [status for status in TurnStatus if status is not TurnStatus.COMPLETED])
def test_a_turn_that_was_not_answered_is_not_called_cut(status: TurnStatus) -> None:
    assert warning_of(replace(ended(StopReason.LENGTH), status=status)) is None


def test_a_cut_answer_says_after_how_many_tokens_where_that_is_known() -> None:
    turn = ended(StopReason.LENGTH)
    known = replace(turn, bill=TurnCost(usage=Usage(output_tokens=8192)))
    assert "after 8,192 tokens" in (warning_of(known) or "")
    assert "token" not in (warning_of(replace(turn, bill=TurnCost())) or "").replace("max_tokens", "")


@pytest.mark.parametrize("reason", NOT_WHOLE)
@given(own=st.none() | st.sampled_from(["A tool failed.", "no full stop"]))
def test_the_words_are_in_every_form_of_the_turn(reason: StopReason, own: str | None) -> None:
    turn = ended(reason, warning=own)
    words = warning_of(turn) or ""
    assert words.startswith(own or "The ")
    for form in (fields_of(turn_result(turn)), turn_json(turn), command_fields(turn)):
        assert (form["stop_reason"], form["warning"]) == (str(reason), words)
    whole = transcript(turn, answered=True)
    assert words in texts(turn)[-1]
    assert words in render_markdown(whole)
    assert words in str(render_json(whole))
    assert to_reply(command_fields(turn), ChatRequest(message="hello")).warning == words


@pytest.mark.parametrize("reason", NOT_WHOLE)
def test_a_question_whose_answer_was_cut_before_its_first_word_is_not_silent(reason: StopReason) -> None:
    turn = ended(reason, reply="")
    unanswered = render_markdown(transcript(turn, answered=False))
    assert f"*No answer: droid (gpt-4o) · 1 token in, 2 out · cost unknown · 1.0 s: {warning_of(turn)}*" in unanswered


def test_a_question_whose_answer_is_in_another_part_is_not_called_unanswered() -> None:
    turn = replace(ended(StopReason.END, reply=""), last_message_id=MESSAGE_IDS[1])
    parts = transcript(turn, answered=True)
    assert "No answer" not in render_markdown(replace(parts, messages=parts.messages[:1]))
