"""A person at a terminal that only prints lines: a dumb one, or one that a screen reader reads."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.testing.http import Steps
from tests.acceptance.test_chat_prompt import messages_of
from tests.acceptance.test_processes import environ
from tests.support.peers.openai import OpenAIPeer
from tests.support.terminals import Terminal, terminal

pytestmark = pytest.mark.acceptance
# The home is that of other tests, whose answers nobody may have heard: these messages are asked anew.
DROID = ("chat", "--new", "--agent", "droid")
DUMB = ({"TERM": "dumb"}, ())
READER = ({"TERM": "xterm-256color"}, ("--screen-reader",))
SETTING = ({"TERM": "xterm-256color", "AGENTAPI_SCREEN_READER": "true"}, ())
KINDS = pytest.mark.parametrize(("extra", "option"), [DUMB, READER, SETTING], ids=["dumb", "option", "setting"])
MOVES = re.compile(r"\x1b(?!\[[0-9;]*m)|[\b\x0b\x0c\x7f]|\r(?!\n)")


async def at(env: dict[str, str], act: Callable[[Terminal], None], *words: str) -> tuple[int, str]:
    """Do something at a terminal, in a thread, while the provider answers here."""

    def do() -> tuple[int, str]:
        with terminal(env, *words) as person:
            act(person)
            return person.leave(), person.seen

    return await asyncio.to_thread(do)


@KINDS
@pytest.mark.parametrize("way", [(), ("--via-mcp",)], ids=["here", "via-mcp"])
async def test_nothing_moves_the_cursor(
    extra: dict[str, str], option: tuple[str, ...], way: tuple[str, ...], edge_home: Path
) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until("droid > ")
            person.type("what is **this**? [[chunks3]]\r")
            place = person.until("droid > ", after=person.until("total ", after=0))
            person.type('"""\r  two\r\r\tlines\r"""\r')
            place = person.until("droid > ", after=person.until("total ", after=place))
            person.type("half a li\x03")
            place = person.until("Ctrl-C again leaves", after=place)
            person.until("droid > ", after=place)
            person.type("\x03")

        env = {**environ(edge_home, peer), **extra}
        status, seen = await at(env, act, *DROID, *option, *way)
        assert status == 0, seen
        assert 'A line of """ begins a message of many lines' in seen
        assert messages_of(peer) == ["what is **this**? [[chunks3]]", "  two\n\n\tlines"]
        assert not MOVES.search(seen), seen


async def test_a_message_of_many_lines_is_sent_whole_or_not(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until("droid > ")
            person.type('"""\rone\r' + "x" * 4000 + "y" * 1000 + '\rtwo\r"""\r')
            place = person.until("Nothing was sent, since a line of the message was refused.")
            place = person.until("droid > ", after=place)
            person.type('"""\rone\r\x04')
            place = person.until("Nothing was sent.", after=place)
            person.until("droid > ", after=place)
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID, "--screen-reader")
        assert status == 0, seen
        assert [each for each in peer.exchanges if each.path.endswith("/chat/completions")] == []


def ask_slowly(person: Terminal, peer: OpenAIPeer, loop: asyncio.AbstractEventLoop) -> None:
    """Ask, in the person's thread, and wait until the provider has been asked."""
    person.until("droid > ")
    person.type("[[slow]]\r")
    asyncio.run_coroutine_threadsafe(peer.received(path="/chat/completions"), loop).result(30)


async def test_ctrl_c_works_after_ctrl_d_while_an_answer_comes(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            ask_slowly(person, peer, loop)
            person.type("\x04")
            person.type("\x03")
            person.until("total ")

        status, seen = await at(environ(edge_home, peer), act, *DROID, "--screen-reader")
        assert status == 0, seen
        await peer.client_gone()


@KINDS
async def test_ctrl_c_stops_an_answer_and_what_was_typed_meanwhile_waits(
    extra: dict[str, str], option: tuple[str, ...], edge_home: Path
) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            ask_slowly(person, peer, loop)
            person.type("/cost\r\x03")
            place = person.until("droid > /cost\r\n", after=person.until("total "))
            person.until("Together: 1 answer", after=place)
            person.until("droid > ", after=place)
            person.type("\x04")

        status, seen = await at({**environ(edge_home, peer), **extra}, act, *DROID, *option)
        assert (status, "cancelled" in seen, "Traceback" in seen) == (0, True, False), seen


async def test_a_line_that_the_terminal_cut_is_not_sent(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until("droid > ")
            person.type("x" * 5000 + "\r")
            place = person.until("Nothing was sent")
            person.until("droid > ", after=place)
            person.type("caf\udce9\r")
            place = person.until("not UTF-8 text, from byte 3 on", after=place)
            person.until("droid > ", after=place)
            person.type("/quit\r")

        status, seen = await at({**environ(edge_home, peer), "TERM": "dumb"}, act, *DROID)
        # The list of models may have been asked for meanwhile: the home is that of other tests.
        asked = [each for each in peer.exchanges if each.path.endswith("/chat/completions")]
        assert (status, asked) == (0, []), seen
