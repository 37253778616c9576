"""What later prompts hold of turns, by how they ended."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.conversations import spoken_of
from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import MessageId, TurnId, new_id
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.backends.reasoning import without_reasoning
from agentapi_mcp.core.conversations.kept_messages import (
    Kept,
    StoredMessage,
    TurnOutcome,
    history_after,
    kept,
    kept_of,
)
from agentapi_mcp.core.conversations.models import History, TurnStatus
from agentapi_mcp.testing.peers import backend_turn

ALWAYS, UNTIL_REPEATED, NEVER = Kept
USER, ASSISTANT = MessageRole.USER, MessageRole.ASSISTANT

# Of each member, without and with text: one that is new must be decided about here, too.
STATUSES = {
    "running": (NEVER, NEVER),
    "input_required": (NEVER, NEVER),
    "completed": (UNTIL_REPEATED, ALWAYS),
    "failed": (NEVER, UNTIL_REPEATED),
    "cancelled": (NEVER, UNTIL_REPEATED),
    "interrupted": (NEVER, UNTIL_REPEATED),
}
FAULTS = {
    "auth": UNTIL_REPEATED,
    "permission": UNTIL_REPEATED,
    "payment": UNTIL_REPEATED,
    "rate_limit": UNTIL_REPEATED,
    "bad_request": UNTIL_REPEATED,
    "context_length": NEVER,
    "not_found": UNTIL_REPEATED,
    "content_policy": NEVER,
    "overloaded": UNTIL_REPEATED,
    "upstream": UNTIL_REPEATED,
    "timeout_connect": UNTIL_REPEATED,
    "timeout_idle": UNTIL_REPEATED,
    "timeout_total": UNTIL_REPEATED,
    "connection": UNTIL_REPEATED,
    "bad_reply": UNTIL_REPEATED,
    "stream_cut": UNTIL_REPEATED,
    "cancelled": UNTIL_REPEATED,
    "backend_missing": UNTIL_REPEATED,
}
STOPS = {
    "end": ALWAYS,
    "length": ALWAYS,
    "tool_calls": ALWAYS,
    "content_filter": NEVER,
    "paused": ALWAYS,
    "other": ALWAYS,
}


@pytest.mark.parametrize("status", TurnStatus)
def test_each_status_decides(status: TurnStatus) -> None:
    assert tuple(kept(TurnOutcome(status), has_text=has_text) for has_text in (False, True)) == STATUSES[status]


@pytest.mark.parametrize("fault", BackendFault)
def test_each_fault_decides_about_what_was_said_before_it(fault: BackendFault) -> None:
    outcome = TurnOutcome(TurnStatus.FAILED, fault)
    assert [kept(outcome, has_text=has_text) for has_text in (False, True)] == [NEVER, FAULTS[fault]]


@pytest.mark.parametrize("reason", StopReason)
def test_each_stop_reason_decides(reason: StopReason) -> None:
    assert kept(TurnOutcome(TurnStatus.COMPLETED, None, reason), has_text=True) == STOPS[reason]


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("<think>\nhm\n</think>\n\nYes.", "Yes."),
        ("\n <think>hm</think>Yes.", "Yes."),
        ("<think>a</think><think>b</think> Yes.", "Yes."),
        ("<think></think>\n\nYes.", "Yes."),
        ("<think>hm</think>Yes:\n</think>\nends it.", "Yes:\n</think>\nends it."),
        ("<thought>hm</thought>Yes.", "Yes."),
        ("[THINK]hm[/THINK]Yes.", "Yes."),
        ("<think>it was cut in its thou", ""),
        ("hm\nhm\n</think>\n\nYes.", "Yes."),  # whose template had said the opening tag
        ("Yes.", "Yes."),
        ("  Yes.\n", "  Yes.\n"),
        ("A model says `<think>hm</think>` first.", "A model says `<think>hm</think>` first."),
        ("The end is `</think>`.", "The end is `</think>`."),
        ("So:\n<think>\nhm\n</think>\nYes.", "So:\n<think>\nhm\n</think>\nYes."),
        ("<thinking about it>", "<thinking about it>"),
    ],
)
def test_the_reasoning_that_an_answer_begins_with_is_left_out(answer: str, left: str) -> None:
    assert without_reasoning(answer) == left


def test_what_others_wrote_is_kept_without_reasoning_and_what_users_wrote_as_it_is() -> None:
    said = [
        HistoryMessage(MessageRole.SYSTEM, "<think>s</think>"),
        HistoryMessage(USER, "<think>u</think>"),
        HistoryMessage(ASSISTANT, "<think>a</think>Yes."),
        HistoryMessage(MessageRole.TOOL, "<think>t</think>"),
        HistoryMessage(ASSISTANT, "<think>only"),
    ]
    messages, unfinished = kept_of(map(StoredMessage, said))
    texts = [message.text for message in messages]
    assert texts == ["<think>s</think>", "<think>u</think>", "Yes.", "<think>t</think>"]
    assert unfinished == 0


def test_half_an_answer_whose_message_was_cut_off_is_not_taken_for_the_message() -> None:
    half = StoredMessage(HistoryMessage(ASSISTANT, "so f"), TurnId(new_id()), CUT)
    assert kept_of([half]) == ((half.said,), 0)


@dataclass(frozen=True)
class Ended:
    """A turn of a test."""

    message: str
    reply: str
    outcome: TurnOutcome


DONE = TurnOutcome(TurnStatus.COMPLETED, None, StopReason.END)
CUT = TurnOutcome(TurnStatus.FAILED, BackendFault.STREAM_CUT)
MODERATED = TurnOutcome(TurnStatus.FAILED, BackendFault.CONTENT_POLICY)
STOPPED = TurnOutcome(TurnStatus.CANCELLED)


@pytest.mark.parametrize(
    ("turns", "texts"),
    [
        ([Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("bad", "", MODERATED), Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("bad", "so f", MODERATED), Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("a", "", CUT)] * 3 + [Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("a", "so f", CUT), Ended("c", "d", DONE)], ["a", "so f", "c", "d"]),
        ([Ended("a", "so f", CUT), Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("a", "so f", CUT), Ended("a", "", CUT)], ["a", "so f"]),
        ([Ended("a", "so f", CUT), Ended("a", "", CUT), Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("a", "so f", CUT), Ended("a", "far", STOPPED), Ended("c", "d", DONE)], ["a", "far", "c", "d"]),
        ([Ended("a", "so f", CUT), Ended("c", "d", DONE), Ended("a", "b", DONE)], ["a", "so f", "c", "d", "a", "b"]),
        ([Ended("a", "b", DONE), Ended("a", "c", DONE)], ["a", "b", "a", "c"]),
        ([Ended("a", " ", DONE), Ended("c", "d", DONE)], ["a", "c", "d"]),
        ([Ended("a", " ", DONE), Ended("a", "b", DONE)], ["a", "b"]),
        ([Ended("a", "<think>so f", CUT), Ended("c", "d", DONE)], ["c", "d"]),
        ([Ended("a", "so f", replace(DONE, stop_reason=StopReason.CONTENT_FILTER)), Ended("c", "d", DONE)], ["c", "d"]),
    ],
)
def test_a_session_goes_on_with_what_was_answered(turns: Sequence[Ended], texts: list[str]) -> None:
    assert [message.text for message in read(turns).messages] == texts
    assert [message.text for message in grown(turns).messages] == texts


OUTCOMES = st.one_of(
    st.builds(TurnOutcome, st.just(TurnStatus.COMPLETED), st.none(), st.sampled_from(StopReason)),
    st.builds(TurnOutcome, st.just(TurnStatus.FAILED), st.sampled_from([None, *BackendFault])),
    st.builds(TurnOutcome, st.sampled_from([TurnStatus.CANCELLED, TurnStatus.INTERRUPTED])),
)
REPLIES = ["", " ", "yes", "<think>h</think>no", "<think>h"]
TURNS = st.lists(st.builds(Ended, st.sampled_from("ab"), st.sampled_from(REPLIES), OUTCOMES))


@given(TURNS)
def test_after_any_turns_the_prompt_is_legal_and_holds_each_exchange_that_counts(turns: list[Ended]) -> None:
    history = read(turns)
    cached = grown(turns)
    assert (cached.messages, cached.unfinished) == (history.messages, history.unfinished)
    assert cached.size == history.size
    for message in "abc":
        sent = spoken_of(replace(backend_turn(message), history=history.before(message).messages))
        assert [one["role"] for one in sent][::2] == ["user"] * (len(sent) // 2 + 1)
        assert all(one["role"] != other["role"] for one, other in pairwise(sent))
        assert all(one["content"].strip() for one in sent)
        assert sent[-1]["content"].endswith(message)
    answered = [turn for turn in turns if turn.outcome.status is TurnStatus.COMPLETED and has_text(turn)]
    whole = [turn for turn in answered if turn.outcome.stop_reason is not StopReason.CONTENT_FILTER]
    wanted = iter(history.messages)
    for turn in whole:  # in order, each with its answer
        assert any(said.text == turn.message and next(wanted).text == told(turn) for said in wanted)
    assert len(history.messages) <= 2 * len(turns)


def has_text(turn: Ended) -> bool:
    return bool(told(turn).strip())


def told(turn: Ended) -> str:
    return without_reasoning(turn.reply)


def read(turns: Sequence[Ended]) -> History:
    """Make a history of what is stored, as the store does."""
    stored = list[StoredMessage]()
    for turn in turns:
        turn_id = TurnId(new_id())
        said = [HistoryMessage(USER, turn.message)] + ([HistoryMessage(ASSISTANT, turn.reply)] if turn.reply else [])
        stored += [StoredMessage(each, turn_id, turn.outcome) for each in said]
    messages, unfinished = kept_of(stored)
    return History(messages, unfinished=unfinished)


def grown(turns: Sequence[Ended]) -> History:
    """Let a history grow turn by turn, as the process that ran them does."""
    history = History(())
    for turn in turns:
        newest = MessageId(new_id())
        history = history_after(history, turn.message, turn.reply, turn.outcome, newest)
        assert history.last_message_id == newest  # by which a cache knows that nothing is missing
    return history
