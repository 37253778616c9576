"""A person, or the system, leaves a conversation in the middle of something: the terminal is as it was before."""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.testing.http import Steps
from tests.acceptance.test_chat_prompt import DROID, PROMPT, TERM, provider_asked, said
from tests.acceptance.test_processes import environ
from tests.support.peers.openai import OpenAIPeer
from tests.support.terminals import Terminal, started_at_terminal

pytestmark = pytest.mark.acceptance
SCREENS = pytest.mark.parametrize("options", [(), ("--screen-reader",)], ids=["prompt", "lines"])
_PATIENCE = 30


async def ended(env: dict[str, str], act: Callable[[Terminal], None], *command: str) -> tuple[int, str, bool]:
    """Do something at a terminal that ends the program; return the status, what is seen and whether it is as before."""

    def do() -> tuple[int, str, bool]:
        with started_at_terminal({**TERM, **env}, *command) as person:
            act(person)
            status = person.process.wait(_PATIENCE)
            return status, person.seen, person.is_usual

    return await asyncio.to_thread(do)


def children(of: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{of}/task/{of}/children").read_text(encoding="ascii").split()]


@SCREENS
async def test_a_server_that_is_frozen_can_be_left(options: tuple[str, ...], edge_home: Path) -> None:
    frozen = list[int]()
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("[[slow]]\r")
            provider_asked(peer, loop, person)
            loop.call_soon_threadsafe(steps.release, 3)
            person.until("w0")
            frozen.extend(children(person.process.pid))
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            person.type("\x03\x03")
            person.until("` ends it.")
            person.process.wait(_PATIENCE)
            for pid in frozen:
                os.kill(pid, signal.SIGKILL)

        status, seen, is_usual = await ended(environ(edge_home, peer), act, *DROID, "--via-mcp", *options)
        assert len(frozen) == 1
        assert (status, is_usual) == (0, True), seen
        assert re.search(r"The turn [0-9a-f-]{36} may go on, and cost: `agentapi-mcp turns show [0-9a-f-]{36}`", seen)


@SCREENS
async def test_a_server_that_is_killed_is_told_and_the_next_message_has_another(
    options: tuple[str, ...], edge_home: Path
) -> None:
    def kill(person: Terminal) -> None:
        for pid in children(person.process.pid):
            os.kill(pid, signal.SIGKILL)

    async with OpenAIPeer() as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("first [[chunks1]]\r")
            place = said(person)
            kill(person)  # while nobody speaks
            person.type("second [[chunks1]]\r")
            place = said(person, person.until("The server had ended: a new one was started.", after=place))
            person.type("third [[slow]]\r")
            loop.call_soon_threadsafe(peer.steps.release, 1)
            place = person.until("w0", after=place)
            kill(person)
            place = person.until(PROMPT, after=person.until("starts a new server.", after=place))
            person.type("/agents\r")
            person.until("guide", after=place)
            person.type("\x04")

        status, seen, _ = await ended(environ(edge_home, peer), act, *DROID, "--via-mcp", *options)
        asked = [each.content.decode() for each in peer.exchanges if each.path.endswith("/chat/completions")]
        assert (status, "Traceback" in seen) == (0, False), seen
        assert "first" in asked[1]  # it is the same session
        assert ["third" in each for each in asked] == [False, False, True]


@SCREENS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["at the prompt", "in mid-answer"])
async def test_a_signal_that_ends_the_program_leaves_the_terminal_as_it_was(
    place: str, number: signal.Signals, options: tuple[str, ...], edge_home: Path
) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            if place == "in mid-answer":
                person.type("[[slow]]\r")
                provider_asked(peer, loop, person)
                loop.call_soon_threadsafe(steps.release, 3)
                person.until("w0")
            assert not person.is_usual or options
            os.kill(person.process.pid, number)
            last_words = "Ended by a signal" if number is signal.SIGTERM else "The terminal was closed"
            person.until("turns show" if place == "in mid-answer" else last_words)

        status, seen, is_usual = await ended(environ(edge_home, peer), act, *DROID, *options)
        assert (status, is_usual, "Traceback" in seen) == (-number, True, False), seen
        if not options:
            assert seen.rindex("\x1b[?2004l") > seen.rindex("\x1b[?2004h")


async def test_a_terminal_that_is_gone_ends_the_program(edge_home: Path) -> None:
    def act() -> int:
        with started_at_terminal({**TERM, **environ(edge_home)}, *DROID) as person:
            person.until(PROMPT)
            person.hang_up()
            return person.process.wait(_PATIENCE)

    assert await asyncio.to_thread(act) in {-signal.SIGHUP, 0}


async def test_what_was_typed_waits_also_where_the_answer_fails(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("[[slow]] [[errchunk]]\r")
            provider_asked(peer, loop, person)
            person.paste("typed\nmeanwhile")
            loop.call_soon_threadsafe(steps.release, 200)
            place = person.until("total ", after=person.until("failed ("))
            person.until("meanwhile", after=place)
            person.type(" [[chunks2]]\r")
            place = person.until("w1", after=place)
            said(person, place)
            person.type("\x04")

        status, seen, _ = await ended(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert b"typed\\nmeanwhile" in peer.exchanges[-1].content
