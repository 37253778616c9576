"""An answer as it grows: what is kept of it, and how it ends."""

from agentapi_mcp.core.answers import Answer
from agentapi_mcp.core.clocks import SystemClock
from agentapi_mcp.core.errors import BackendFault
from agentapi_mcp.core.events import Finished, TextDelta
from agentapi_mcp.core.records.agents import Prices
from agentapi_mcp.core.records.turns import EndReason, TurnStatus


def begun() -> Answer:
    """Begin an answer."""
    answer = Answer(SystemClock(), Prices(), may_go_on_billing=False)
    answer.begin()
    return answer


def test_what_no_database_keeps_is_taken_out_and_split_pairs_are_joined() -> None:
    answer = begun()
    for piece in ("a\0", "\ud83d", "\ude00", "b\udfff"):
        answer.take(TextDelta(piece))
    assert answer.text == "a\U0001f600b\ufffd"


def test_an_answer_without_an_end_is_a_cut_stream() -> None:
    answer = begun()
    answer.take(TextDelta("half"))
    answer.end(None, None)
    assert answer.status is TurnStatus.FAILED
    assert answer.fault is not None
    assert answer.fault.fault is BackendFault.STREAM_CUT


def test_an_answer_that_had_ended_when_it_was_stopped_is_completed() -> None:
    answer = begun()
    answer.take(Finished())
    answer.end(EndReason.CANCEL_TURN, None)
    assert answer.status is TurnStatus.COMPLETED


def test_an_unexpected_error_says_nothing_of_itself() -> None:
    answer = begun()
    answer.end(None, ValueError("a secret"))
    assert answer.status is TurnStatus.FAILED
    assert answer.fault is not None
    assert "secret" not in answer.fault.message
