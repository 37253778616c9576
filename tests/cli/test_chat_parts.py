"""The parts of the chat that need no terminal: history, pasted texts, bills."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agentapi_mcp.base.home_names import CHAT_HISTORY
from agentapi_mcp.cli.chat.bills import Bills
from agentapi_mcp.cli.chat.history import ChatHistory
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.pastes import Pastes
from agentapi_mcp.cli.chat.slash_commands import COMMANDS, asked_again, help_lines
from agentapi_mcp.cli.replies import ChatReply, Fields

HEAD = {"format": "agentapi-mcp chat history", "version": 1}


def opened(home: Path, told: list[str] | None = None) -> ChatHistory:
    return ChatHistory(home / CHAT_HISTORY, (told if told is not None else []).append, str)


def test_what_was_typed_is_there_the_next_time_newest_first_and_for_its_owner_alone(tmp_path: Path) -> None:
    texts = ["first", "two\nlines", "é\udcff\x1b"]
    history = opened(tmp_path)
    for text in texts:
        history.append_string(text)
    assert list(opened(tmp_path).load_history_strings()) == texts[::-1]
    assert (tmp_path / CHAT_HISTORY).stat().st_mode & 0o777 == 0o600
    (tmp_path / CHAT_HISTORY).chmod(0o644)
    history.append_string("more")
    assert (tmp_path / CHAT_HISTORY).stat().st_mode & 0o777 == 0o600


def test_a_long_message_is_not_kept_and_one_line_that_was_cut_harms_no_other(tmp_path: Path) -> None:
    history = opened(tmp_path)
    history.append_string("x" * 10_001)
    history.append_string("kept")
    with (tmp_path / CHAT_HISTORY).open("a", encoding="utf-8") as file:
        file.write('"cut\n')
    history.append_string("and this")
    assert list(opened(tmp_path).load_history_strings()) == ["and this", "kept"]


def test_the_oldest_messages_are_forgotten(tmp_path: Path) -> None:
    lines = [json.dumps(HEAD), *(json.dumps(str(number)) for number in range(2001))]
    (tmp_path / CHAT_HISTORY).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert len(list(opened(tmp_path).load_history_strings())) == 1000
    assert len((tmp_path / CHAT_HISTORY).read_text(encoding="utf-8").splitlines()) == 1001
    assert next(iter(opened(tmp_path).load_history_strings())) == "2000"


@pytest.mark.parametrize("written", ["", json.dumps(HEAD)])
def test_an_empty_history_is_none(tmp_path: Path, written: str) -> None:
    (tmp_path / CHAT_HISTORY).write_text(written, encoding="utf-8")
    told = list[str]()
    assert list(opened(tmp_path, told).load_history_strings()) == []
    assert told == []


@pytest.mark.parametrize("written", [json.dumps(HEAD | {"version": 2}), "[]", "# 2026\n+hello\n", "\x00"])
def test_a_history_of_another_version_is_told_once_and_stays_as_it_is(tmp_path: Path, written: str) -> None:
    (tmp_path / CHAT_HISTORY).write_text(written, encoding="utf-8")
    told = list[str]()
    history = opened(tmp_path, told)
    assert list(history.load_history_strings()) == []
    history.append_string("hello")
    assert (len(told), (tmp_path / CHAT_HISTORY).read_text(encoding="utf-8")) == (1, written)
    assert "no history of this version" in told[0]


@given(st.lists(st.text(max_size=5) | st.text(min_size=1001, max_size=1010), max_size=5))
def test_a_message_has_what_was_pasted(texts: list[str]) -> None:
    pastes = Pastes()
    assert pastes.whole("".join(pastes.short(text) for text in texts)) == "".join(texts)


def test_a_pasted_text_that_holds_the_name_of_another_stays_as_it_is() -> None:
    pastes = Pastes()
    first = pastes.short("a" * 2000)
    second = pastes.short(first + "b" * 2000)
    assert pastes.whole(f"{first} and {second}") == f"{'a' * 2000} and {first}{'b' * 2000}"
    assert first == "[paste 1: 1 line, 2,000 characters]"


def reply(cost: float | None) -> ChatReply:
    """Make a reply with this cost."""
    turn = {"agent": "droid", "cost_usd": cost, "usage": {"input_tokens": 11, "output_tokens": None}}
    bill = "droid (gpt-4o-2026-01-01) · 11 tokens in, ? out · $0.00014 · 1.5 s · the provider may go on billing"
    return ChatReply(
        session_id="01998c00-0000-7000-8000-0123456789ab",
        completed=True, cancelled=False, text="", bill=bill, error=None, warning=None, joined=None, turn=turn,
    )  # fmt: skip


@pytest.mark.parametrize("width", range(5, 160, 5))
def test_a_bill_is_one_row_and_what_matters_least_goes_first(width: int) -> None:
    bills = Bills()
    bills.add(reply(0.00014).turn)
    line = bills.line(reply(0.00014), width)
    assert cell_len(line) <= width
    assert "$0.00014" in line or width < 20
    assert ("gpt-4o" in line) == (width >= 140)
    assert ("total $0.00014" in line) == (width >= 55)
    assert ("session 456789ab" in line) == (width >= 90)


def test_a_total_says_how_many_costs_are_not_in_it() -> None:
    bills = Bills()
    assert bills.summary() == ["Nothing was asked yet."]
    for cost in (0.5, None, 0.75):
        bills.add(reply(cost).turn)
    assert bills.total == "$1.25 and 1 unknown"
    assert bills.summary() == [
        "droid: 3 answers, $1.25 and 1 unknown",
        "Together: 3 answers, tokens in: 33, out: unknown, $1.25 and 1 unknown.",
    ]


def test_what_is_left_after_the_last_answer_is_told_with_the_sum_and_in_short_in_a_bill() -> None:
    bills, state = Bills(), {"scope": "member", "period": "day", "hard": True, "limit_usd": 2.0, "left_usd": 1.5}
    bills.add(reply(0.5).turn | {"budget": {**state, "renews_at": "2026-12-01T00:00:00Z"}})
    assert bills.summary()[-1] == "$1.50 left of your daily budget; it renews at 2026-12-01 00:00 UTC."
    told = replace(reply(0.5), bill="droid · $0.50 · $1.50 left of your daily budget")
    assert "$1.50 left of your daily budget" in bills.line(told, 120)
    assert "$1.50 left · total $0.5]" in bills.line(told, 45)
    bills.add(reply(0.5).turn)
    assert bills.summary()[-1].startswith("Together: 2 answers")


def test_what_nobody_knows_is_no_zero() -> None:
    bills = Bills()
    bills.add(reply(None).turn)
    assert bills.summary()[0] == "droid: 1 answer, unknown"
    assert bills.total == "unknown"


@pytest.mark.parametrize(
    ("turn", "flags", "told"),
    [
        (None, (False, False), "asked if it was not, and taken up if it was"),
        (("completed", True, None, False), (False, True), "asked anew, which costs again"),
        (("failed", True, None, False), (False, True), "that was failed cost stays."),
        (("cancelled", True, "cancel_turn", True), (False, True), "The one before may go on, and cost."),
        (("cancelled", True, "abandoned", False), (True, False), "may cost twice"),
        (("interrupted", True, None, False), (True, False), "may cost twice"),
        (("interrupted", False, None, False), (True, False), "was not asked yet"),
    ],
)
def test_a_message_is_asked_again_by_what_became_of_it_and_never_twice_in_silence(
    turn: tuple[str, bool, str | None, bool] | None, flags: tuple[bool, bool], told: str
) -> None:
    names = ("status", "asked", "end_reason", "billing_may_go_on")
    fields: Fields | None = None if turn is None else {name: turn[place] for place, name in enumerate(names)}
    options, said = asked_again(ChatOptions(new=True, idempotency_key="key"), fields)
    assert (options.retry, options.new) == flags
    assert (options.idempotency_key is None) == options.new
    assert told in said


def test_the_newest_messages_of_a_very_long_history_are_read(tmp_path: Path) -> None:
    with (tmp_path / CHAT_HISTORY).open("w", encoding="utf-8") as file:
        file.write(f"{json.dumps(HEAD)}\n")
        for number in range(2500):
            file.write(json.dumps(f"{number} {'x' * 9000}") + "\n")
    texts = list(opened(tmp_path).load_history_strings())
    assert (len(texts), texts[0].split()[0]) == (1000, "2499")
    assert (tmp_path / CHAT_HISTORY).stat().st_size < 10_000_000


def test_two_conversations_at_once_lose_nothing(tmp_path: Path) -> None:
    lines = [json.dumps(HEAD), *(json.dumps(f"old {number}") for number in range(1999))]
    (tmp_path / CHAT_HISTORY).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    both = [opened(tmp_path), opened(tmp_path)]

    def talk(place: int) -> None:
        for number in range(200):
            both[place].store_string(f"{place}: {number}")
            list(both[place].load_history_strings())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(talk, (0, 1)))
    texts = list(opened(tmp_path).load_history_strings())
    for place in (0, 1):
        assert [text for text in texts if text.startswith(f"{place}: ")] == [
            f"{place}: {n}" for n in range(199, -1, -1)
        ]


def test_a_line_that_begins_with_a_space_is_kept_for_this_conversation_alone(tmp_path: Path) -> None:
    history = opened(tmp_path)
    history.append_string(" the password is x")
    assert history.get_strings() == [" the password is x"]
    assert not (tmp_path / CHAT_HISTORY).exists()


def test_the_help_of_a_conversation_has_what_commands_do_below_each_other() -> None:
    begins = {line.index(command.about) for line, command in zip(help_lines(), COMMANDS.values(), strict=True)}
    assert len(begins) == 1
