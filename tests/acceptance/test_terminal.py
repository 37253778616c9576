"""A person at a terminal: Ctrl-C, Ctrl-D, commands; directly and through the MCP server."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.testing.http import Steps
from tests.acceptance.test_processes import environ, run
from tests.support.peers.openai import OpenAIPeer
from tests.support.terminals import Terminal, terminal

pytestmark = pytest.mark.acceptance
WAYS = [("chat",), ("chat", "--via-mcp")]
SLOW = "[[slow]] [[chunks9]] {}\r"


async def at(env: dict[str, str], words: tuple[str, ...], act: Callable[[Terminal], int]) -> tuple[int, str]:
    """Do something at a terminal, in a thread, while the provider answers here."""

    def do() -> tuple[int, str]:
        with terminal(env, *words) as person:
            person.until(" > ")
            return act(person), person.seen

    return await asyncio.to_thread(do)


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_ctrl_c_cancels_an_answer_and_the_prompt_works(words: tuple[str, ...], edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop, env = asyncio.get_running_loop(), environ(edge_home, peer)

        def act(person: Terminal) -> int:
            person.type(SLOW.format(words))
            asked = peer.received(path="/chat/completions")  # the agents are checked before
            asyncio.run_coroutine_threadsafe(asked, loop).result(30)
            person.type("\x03")
            place = person.until("total ")
            place = person.until("> ", after=place)
            person.type("/agent guide\r")
            place = person.until("goes to guide", after=place)
            person.type("which agents work?\r")
            person.until("free", after=place)
            person.type("\x04")
            return person.leave()

        status, seen = await at(env, (*words, "--agent", "droid"), act)
        assert status == 0, seen
        assert "cancelled" in seen
        assert "interrupted" not in seen
        session = json.loads((await run(env, "sessions", "list", "--limit", "1", "--json"))[1])["sessions"][0][
            "session_id"
        ]
        assert "cancelled" in (await run(env, "sessions", "show", session))[1]


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
async def test_ctrl_c_at_the_prompt_loses_no_line_and_twice_leaves(words: tuple[str, ...], edge_home: Path) -> None:
    def act(person: Terminal) -> int:
        person.type("half a li\x03")
        place = person.until("Ctrl-C again leaves")
        place = person.until("> ", after=place)
        person.type("/agent nobody\r")
        place = person.until("no agent nobody; there are: ", after=place)
        place = person.until("> ", after=place)
        person.type("/agnet guide\r")
        place = person.until("no command /agnet", after=place)
        place = person.until("> ", after=place)
        person.type("\x03")
        place = person.until("Ctrl-C again leaves", after=place)
        person.type("\x03")
        return person.leave()

    status, seen = await at(environ(edge_home), words, act)
    assert (status, "Traceback" in seen) == (0, False), seen
