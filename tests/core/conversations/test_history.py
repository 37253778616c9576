"""What of a session is sent to a model, and what is learned about its tokens."""

import pytest
from typing_extensions import override

from agentapi_mcp.base.ids import AgentId, MessageId, new_id
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.history import TokenRatios, fit_history, longest_answer
from agentapi_mcp.core.conversations.models import History


def test_the_models_that_are_not_used_any_more_are_forgotten_first() -> None:
    ratios, agent = TokenRatios(max_models=2), AgentId(new_id())
    one, two, three = [(agent, name) for name in ("one", "two", "three")]
    ratios.learn(one, prompt_bytes=400, input_tokens=200)
    ratios.learn(two, prompt_bytes=400, input_tokens=300)
    assert ratios.get(one) == pytest.approx(2)
    ratios.learn(three, prompt_bytes=400, input_tokens=50)
    assert [ratios.get(model) for model in (one, two, three)] == pytest.approx([2, 1, 0.5])


def test_what_one_agent_teaches_about_a_name_says_nothing_of_that_of_another() -> None:
    ratios, name = TokenRatios(), "auto"
    here, there = (AgentId(new_id()), name), (AgentId(new_id()), name)
    ratios.learn(here, prompt_bytes=400, input_tokens=200)
    assert [ratios.get(here), ratios.get(there)] == [2, 1]


@pytest.mark.parametrize(("input_tokens", "ratio"), [(1, 0.25), (24, 0.25), (26, 0.26), (399, 3.99), (10**9, 4)])
def test_one_odd_report_moves_a_ratio_no_further_than_fourfold(input_tokens: int, ratio: float) -> None:
    ratios, model = TokenRatios(), (AgentId(new_id()), "m")
    ratios.learn(model, prompt_bytes=400, input_tokens=input_tokens)
    assert ratios.get(model) == pytest.approx(ratio)


def history_of(*texts: str, dropped: int = 0) -> History:
    messages = tuple(HistoryMessage(MessageRole.USER, text) for text in texts)
    return History(messages, dropped)


def test_a_history_that_fits_is_left_as_it_is() -> None:
    history = history_of("a", "b")
    assert fit_history(history, 8) is history


@pytest.mark.parametrize(
    ("texts", "max_bytes", "kept", "dropped"),
    [
        (("aaaa", "bb", "cc"), 4, ["bb", "cc"], 5),
        (("aaaa", "bb", "cc"), 3, ["cc"], 6),
        (("aaaa", "bb", "cc"), 1, [], 7),
        (("é" * 4, "é" * 2), 4, ["éé"], 5),  # counted in bytes, not in characters
        (("a", "bbbb", "c"), 4, ["c"], 6),  # nothing older stands behind a gap
    ],
)
def test_the_newest_messages_that_fit_are_sent_and_the_older_ones_counted(
    texts: tuple[str, ...], max_bytes: int, kept: list[str], dropped: int
) -> None:
    fitted = fit_history(history_of(*texts, dropped=4), max_bytes)
    assert [message.text for message in fitted.messages] == kept
    assert fitted.dropped == dropped


def test_a_message_that_was_cut_off_is_not_taken_for_unfinished() -> None:
    messages = (HistoryMessage(MessageRole.USER, "question"), HistoryMessage(MessageRole.ASSISTANT, "so f"))
    assert fit_history(History(messages, unfinished=2), 12).unfinished == 2
    assert fit_history(History(messages, unfinished=2), 4).unfinished == 0


class Measured(str):  # noqa: SLOT000  # it counts in an attribute
    """A text that counts how often it is measured, as ASCII or not."""

    times = 0

    @override
    def isascii(self) -> bool:
        self.times += 1
        return super().isascii()


def test_a_turn_of_a_long_session_counts_its_new_messages_alone() -> None:
    old = [Measured("old") for _ in range(50)]
    history = history_of(*old, dropped=2)
    assert [text.times for text in old] == [1] * 50
    for number in range(3):
        last = MessageId(new_id())
        history = history.followed_by((HistoryMessage(MessageRole.ASSISTANT, "new!"),), last)
        assert fit_history(history, 1_000_000) is history
        assert (history.size, history.dropped, history.last_message_id) == (150 + 4 * (number + 1), 2, last)
    assert [text.times for text in old] == [1] * 50


@pytest.mark.parametrize(
    ("asked", "models", "window", "longest"),
    [
        (None, None, None, None),
        (None, None, 8192, None),
        (100, None, 8192, 100),
        (100, 4096, 8192, 100),
        (9000, 4096, 128_000, 4096),
        (None, 4096, 128_000, 4096),
        (None, 4096, None, 4096),
        (None, 8192, 8192, 4096),  # the question needs room
        (8000, 8192, 8192, 8000),  # unless the caller decides
        (None, 1, 1, 1),
    ],
)
def test_an_answer_is_as_long_as_asked_and_no_longer_than_the_model_can(
    asked: int | None, models: int | None, window: int | None, longest: int | None
) -> None:
    assert longest_answer(asked, models, window) == longest
