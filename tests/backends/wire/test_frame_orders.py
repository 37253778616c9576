"""The frames of a valid answer in any order, some missing, some twice: never text, an end or a bill nobody sent."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.backends.wire.chat_completions import ChatCompletionsReply
from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.core.backends.events import StopReason, Usage, UsageReported
from tests.support.frames import FAULTS, Format, Frame, Outcome, read, written

FORMATS = pytest.mark.parametrize("form", list(Format))
CHAT, MESSAGES = Format.CHAT, Format.MESSAGES
PIECES = [f"w{place} " for place in range(4)]
BILLS = [3, 5]  # output tokens so far, of two reports
LARGEST = (11, 5, 4, Decimal("0.5"))  # input, output, cached input and cost, of all that is said
MARKS: dict[Format, Frame] = {CHAT: "[DONE]", MESSAGES: {"type": "message_stop"}}


def bill(form: Format, output: int) -> Frame:
    """Make the frame of a report of the usage until now."""
    if form is CHAT:
        usage = {"prompt_tokens": 11, "completion_tokens": output, "total_tokens": 11 + output}
        return {"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 4}, "cost": output / 10}}
    usage = {"input_tokens": 7, "cache_read_input_tokens": 4, "output_tokens": output}
    return {"type": "message_delta", "delta": {"stop_reason": None}, "usage": usage}


def begin(form: Format) -> list[Frame]:
    if form is CHAT:
        return form.begin()
    usage = {"input_tokens": 7, "cache_read_input_tokens": 4, "output_tokens": 1}
    start: Frame = {"type": "message_start", "message": {"model": "m", "content": [], "usage": usage}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return [start, block, {"type": "content_block_stop", "index": 0}]


def valid(form: Format) -> list[Frame]:
    """Make a whole answer, with the bill told as it grows."""
    return [
        *begin(form),
        *map(form.piece, PIECES),
        *(bill(form, output) for output in BILLS),
        form.stop(),
        MARKS[form],
    ]


def mixed(form: Format) -> st.SearchStrategy[list[Frame]]:
    """Draw frames of a whole answer: each missing, once or twice, in any order."""
    frames = valid(form)
    counts = st.lists(st.sampled_from([0, 1, 1, 1, 2]), min_size=len(frames), max_size=len(frames))

    def chosen(counts: list[int]) -> list[Frame]:
        return [frame for frame, count in zip(frames, counts, strict=True) for _ in range(count)]

    return counts.map(chosen).flatmap(st.permutations)


def texts_before_mark(form: Format, frames: Iterable[Frame]) -> str:
    """Return the text that a reader of the frames in this order finds before the mark of the end."""
    said = {str(form.piece(piece)): piece for piece in PIECES}
    text = ""
    for frame in frames:
        if frame == MARKS[form]:
            break
        text += said.get(str(frame), "")
    return text


def goes_on(form: Format, frames: Sequence[Frame]) -> bool:
    """Whether the answer goes on after the last frame that tells its end, and nothing marks it."""
    if MARKS[form] in frames:
        return False
    after = frames[len(frames) - frames[::-1].index(form.stop()) :]
    return any(form.piece(piece) in after for piece in PIECES)


def fault_of(outcome: Outcome) -> BackendFault | None:
    """Return how an answer failed, in words that end; None if it is complete."""
    if outcome.error is None:
        assert outcome.end.stop_reason in {StopReason.END, StopReason.OTHER}
        return None
    assert str(outcome.error).endswith(".")
    return outcome.error.fault


@FORMATS
@given(data=st.data())
def test_frames_in_any_order_say_nothing_that_was_not_sent(form: Format, data: st.DataObject) -> None:
    frames = data.draw(mixed(form))
    outcome = read(form, written(frames), data.draw(st.lists(st.integers(0, 10_000), max_size=4)))
    text = texts_before_mark(form, frames)
    assert outcome.text == text
    is_marked = MARKS[form] in frames
    is_stopped = form.stop() in (frames[: frames.index(MARKS[form])] if is_marked else frames)
    if is_stopped or (is_marked and text):
        assert fault_of(outcome) is None
        assert outcome.end.stop_reason is (StopReason.OTHER if goes_on(form, frames) else StopReason.END)
    elif text:
        assert fault_of(outcome) is BackendFault.STREAM_CUT
    else:
        possible = {None, BackendFault.BAD_REPLY} if is_marked else {BackendFault.STREAM_CUT, BackendFault.BAD_REPLY}
        assert fault_of(outcome) in possible


@FORMATS
@given(data=st.data())
def test_frames_in_any_order_bill_no_more_than_the_largest_report(form: Format, data: st.DataObject) -> None:
    frames = data.draw(mixed(form))
    for usage in bills_in(form, frames):
        told = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cost_usd)
        assert all(count is None or count <= most for count, most in zip(told, LARGEST, strict=True)), told


@FORMATS
@given(st.data())
def test_the_bill_of_all_reports_in_order_is_the_last_however_often_they_come(
    form: Format, data: st.DataObject
) -> None:
    frames = [frame for frame in valid(form) for _ in range(data.draw(st.integers(1, 3)))]
    last = bills_in(form, frames)[-1]
    assert (last.input_tokens, last.output_tokens, last.cached_tokens) == LARGEST[:3]
    assert last.cost_usd == (LARGEST[3] if form is CHAT else None)


def bills_in(form: Format, frames: Sequence[Frame]) -> list[Usage]:
    """Return all that is told of the usage."""
    answer = ChatCompletionsReply(FAULTS, provider=None, has_cost=True) if form is CHAT else form.answer()
    outcome = read(form, written(frames), answer=answer)
    return [event.usage for event in outcome.events if isinstance(event, UsageReported)]
