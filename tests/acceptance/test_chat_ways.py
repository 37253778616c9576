"""One message from a script: directly and through the MCP server, what is printed is the same."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agentapi_mcp.base.json_records import record_fields
from agentapi_mcp.core.conversations.models import LISTED_CHARACTERS, TurnCost
from tests.acceptance.test_processes import COMMAND, environ, run
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import asked

pytestmark = pytest.mark.acceptance
WAYS = [("chat",), ("chat", "--via-mcp")]
TIMES = {field.name for field in record_fields(TurnCost) if field.kind is timedelta}
OWN = {"text", "session_id", "turn_id", "transcript_uri", "route", "next_step"} | TIMES
SHOWN_TIMES = ("created_at", "asked_at", "ended_at")
SOONER = {"saved"}  # a tool answers when the agent does, and the database may hear of it a moment later


@pytest.mark.parametrize("message", ["[[echo]] hello", "[[e401]]", "[[chunks15000]]"])
async def test_both_ways_print_the_same_object(message: str, edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        turns: list[dict[str, Any]] = []
        for words in WAYS:
            _, out, err = await run(env, *words, "--agent", "droid", "--json", message)
            assert out, err
            turns.append(json.loads(out))
        here, through = turns
        assert list(here) == list(through)
        common = here.keys() - OWN - SOONER
        assert {name: here[name] for name in common} == {name: through[name] for name in common}
        assert here["reply_truncated"] is False
        shown = json.loads((await run(env, "turns", "show", through["turn_id"], "--json"))[1])
        listed = json.loads((await run(env, "turns", "list", "--json"))[1])["turns"]
        # A list has beginnings of replies alone.
        is_long = len(shown["reply"]) > LISTED_CHARACTERS
        assert shown | {"reply": shown["reply"][:LISTED_CHARACTERS], "reply_truncated": is_long} in listed
        began, asked, ended = (datetime.fromisoformat(shown.pop(name)) for name in SHOWN_TIMES)
        assert began <= asked <= ended
        assert began.tzinfo is not None
        assert shown == through | {"saved": True}


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_a_session_may_be_named_by_the_end_of_its_id(words: tuple[str, ...], edge_home: Path) -> None:
    env = environ(edge_home)
    begun = json.loads((await run(env, *words, "--agent", "guide", "--json", "which agents work?"))[1])
    _, out, err = await run(env, *words, "--session", begun["session_id"][-10:], "--json", "which models are there?")
    assert out, err
    assert json.loads(out)["session_id"] == begun["session_id"]


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_an_answer_that_joined_says_so_and_how_to_ask_anew(words: tuple[str, ...], edge_home: Path) -> None:
    sent_before = "(This message was sent before, and this is the turn that answers it."
    env, key = environ(edge_home), str(uuid4())
    said = (*words, "--agent", "guide", "--idempotency-key", key, "which agents work?")
    _, first, err = await run(env, *said)
    assert sent_before not in err
    _, again, err = await run(env, *said)
    assert (again, err.splitlines()[0]) == (first, f"{sent_before} Another --idempotency-key asks it anew.)")
    assert json.loads((await run(env, *said, "--json"))[1])["joined"] is True


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[[e401]]", "failed (auth; trying again does not help): "),
        ("[[later]]", "failed (overloaded; trying again may help in 7 s): "),
        ("[[badjson]]", "failed (bad_reply; trying again may help): "),
    ],
)
async def test_a_failed_turn_tells_its_kind_and_whether_to_try_again(
    words: tuple[str, ...], message: str, kind: str, edge_home: Path
) -> None:
    async with OpenAIPeer() as peer:
        status, out, err = await run(environ(edge_home, peer), *words, "--agent", "droid", message)
        assert (status, out) == (1, "")
        assert [line for line in err.splitlines() if line.startswith(f"agentapi-mcp: {kind}")], err


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--continue", "--session", "0123456789"), "--continue and --session name two sessions: say one of them."),
        (("--retry", "--new"), "--retry asks an interrupted turn again, --new asks anew: say one of them."),
        (("--new", "--idempotency-key", "k"), "--new asks anew, --idempotency-key finds what was asked: say a new key"),
    ],
)
async def test_options_that_contradict_each_other_are_refused_by_their_names(
    words: tuple[str, ...], options: tuple[str, ...], said: str, edge_home: Path
) -> None:
    status, out, err = await run(environ(edge_home), *words, *options, "hello")
    assert (status, out) == (2, "")
    assert said in err


async def test_a_retry_of_what_was_answered_is_refused_in_words_of_the_terminal(edge_home: Path) -> None:
    env = environ(edge_home)
    said = ("chat", "--agent", "guide", "--idempotency-key", str(uuid4()), "which agents work?")
    assert (await run(env, *said))[0] == 0
    status, out, err = await run(env, *said, "--retry")
    assert (status, out) == (2, "")
    assert "was not interrupted (it is completed), so there is nothing to retry. To get that turn, leave --retry" in err


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_what_is_left_is_told_with_the_bill_and_what_lacks_is_refused(words: tuple[str, ...], seed: Seed) -> None:
    async with seed.started("left-") as server, OpenAIPeer() as peer:
        env = environ(server.home, peer)
        asking = (*words, "--agent", "droid", "--max-tokens", "1000")
        await run(env, "budgets", "set", "1", "--period", "total")
        status, out, _ = await run(env, *asking, "--estimate", "hello")
        left = r"\$1\.00 left of your organisation's budget; it does not renew\."
        assert status == 0
        assert re.search(rf"may cost up to about \$0\.\d+\. {left} Nothing was asked\.\n$", out)
        status, _, err = await run(env, *asking, "hello [[echo]]")
        assert status == 0
        assert re.search(r" · \$0\.\d+ left of your organisation's budget · session ", err)

        for more in (("--max-cost", "0.0000001"), ("--max-cost", "0.0000001", "--estimate")):
            status, out, err = await run(env, *asking, *more, "--json", "hello")
            told = json.loads(out)["error"]
            assert (status, told["code"]) == (0 if "--estimate" in more else 2, "budget_exceeded")
            assert "the $0.0000001 " in told["message"]
        await run(env, "budgets", "set", "0", "--period", "total")
        status, out, err = await run(env, *asking, "--json", "hello")
        told = json.loads(out)["error"]
        assert (status, told["code"], told["max_cost_usd"], told["budget"]["limit_usd"]) == (
            2,
            "budget_exceeded",
            None,
            0,
        )
        assert "Your organisation's budget ($0.00) has -$0.0" in err
        assert asked(peer) == 1


@pytest.mark.parametrize("amount", ["-1", "nan", "inf", "1e400", "ten", "0.00000000001", ""])
async def test_what_is_no_amount_is_refused_before_anything_is_opened(amount: str, edge_home: Path) -> None:
    status, out, err = await run(environ(edge_home), "chat", "--max-cost", amount, "hello")
    assert (status, out) == (2, "")
    assert "Invalid value for '--max-cost': must be " in err


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_an_agent_that_is_not_set_up_says_what_to_set_also_as_json(
    words: tuple[str, ...], edge_home: Path
) -> None:
    status, out, err = await run(environ(edge_home), *words, "--agent", "droid", "--json", "hello")
    error = json.loads(out)["error"]
    assert list(error) == ["code", "retryable", "fault", "message", "next_step"]
    assert "OPENROUTER_API_KEY is not set" in error["message"]
    assert "OPENROUTER_API_KEY is not set" in err
    assert status != 0


@pytest.mark.parametrize("message", ["[[e401]]", "[[e402]]"])
@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_a_key_that_is_wrong_or_spent_is_named_also_as_json(
    words: tuple[str, ...], message: str, edge_home: Path
) -> None:
    async with OpenAIPeer() as peer:
        env = environ(edge_home, peer)
        _, out, err = await run(env, *words, "--agent", "droid", "--json", message)
        assert "OPENROUTER_API_KEY" in json.loads(out)["error"]["next_step"]
        assert "OPENROUTER_API_KEY" in err


@pytest.mark.parametrize(
    ("piped", "said"),
    [
        (b"caf\xe9", "not UTF-8 text, from byte 3 on"),
        (b"a\0b", "MESSAGE holds a NUL character"),
        (b"\xed\xa0\x80 half", "not UTF-8 text, from byte 0 on"),
    ],
)
async def test_what_is_piped_and_no_message_is_told(piped: bytes, said: str, edge_home: Path) -> None:
    status, out, err = await run(environ(edge_home), "chat", "--agent", "guide", stdin=piped)
    assert (status, out) == (2, "")
    assert said in err


async def test_ten_megabytes_on_stdin_are_refused_by_the_size_of_a_message(edge_home: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "chat", "--agent", "guide", env=environ(edge_home), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdin is not None
    with suppress(ConnectionError):  # it reads no more than it needs
        process.stdin.write(b"ten megabytes " * 750_000)
        await process.stdin.drain()
    out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"has more than the 1,000,000 bytes of a message" in err
