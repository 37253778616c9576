"""The commands of a conversation, each of them, also where the server is away or an editor fails."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from agentapi_mcp.cli.chat.slash_commands import COMMANDS
from tests.acceptance.test_chat_leaving import children
from tests.acceptance.test_chat_prompt import CHAT, DROID, PROMPT, asked, at, messages_of, said
from tests.acceptance.test_processes import environ
from tests.support.peers.openai import OpenAIPeer
from tests.support.terminals import Terminal, plain

pytestmark = pytest.mark.acceptance
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "chat-in-the-terminal.md"
# What each command says alone, before anything was asked.
SAID = {
    "/agent": "guide: ",
    "/agents": "guide: ",
    "/copy": "There is no answer to copy yet",
    "/cost": "Nothing was asked yet",
    "/estimate": "/estimate needs the MESSAGE after it",
    "/edit": "false ended with status 1",
    "/export": "There is nothing to export yet",
    "/help": "ask the last message again",
    "/model": "goes to guide, without a model",
    "/models": "PROVIDER",
    "/new": "begins a session",
    "/retry": "Nothing was asked yet",
    "/session": "/session needs the ID after it",
    "/sessions": "LAST MESSAGE",
    "/system": "There are no instructions",
    "/quit": "",
}


@pytest.mark.parametrize("screen", ["prompt", "lines"])
async def test_each_command_is_known_explained_and_documented(screen: str, edge_home: Path) -> None:
    assert set(COMMANDS) == set(SAID)

    def act(person: Terminal) -> None:
        place = person.until(PROMPT)
        for command, answer in SAID.items():
            person.type(f"{command}\r")
            if command != "/quit":
                place = person.until(PROMPT, after=person.until(answer, after=place))

    options = ("--screen-reader",) if screen == "lines" else ()
    status, seen = await at(environ(edge_home) | {"EDITOR": "false"}, act, *CHAT, "--agent", "guide", *options)
    assert (status, "Traceback" in seen) == (0, False), seen
    page, shown = PAGE.read_text(encoding="utf-8"), plain(seen).replace("\r", "")
    for name, command in COMMANDS.items():
        assert f"`{name}" in page
        assert f"{command.about}\n" in shown


@pytest.mark.parametrize("way", [(), ("--via-mcp",)], ids=" ".join)
async def test_what_a_message_may_cost_is_told_and_nobody_is_asked(way: tuple[str, ...], edge_home: Path) -> None:
    def act(person: Terminal) -> None:
        place = person.until(PROMPT)
        person.type("/estimate how do I add a model?\r")
        place = person.until("This message to guide may cost up to about $0.00.", after=place)
        person.until(PROMPT, after=place)
        person.type("/cost\r")
        person.until("Nothing was asked yet.", after=place)
        person.type("\x04")

    status, seen = await at(environ(edge_home), act, *CHAT, "--agent", "guide", *way)
    assert (status, "Traceback" in seen) == (0, False), seen


async def test_the_prompt_names_the_agent_that_will_answer_and_the_opening_is_short(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = asked(person, "which agents work? [[chunks1]]")
            said(person, place)
            person.type("\x04")

        for way in ((), ("--via-mcp",)):
            status, seen = await at(environ(edge_home, peer), act, *CHAT, "--new", *way)
            opening = plain(seen).replace("\r", "").partition(" >")[0].split("\n")
            assert (status, opening[-1].endswith("droid")) == (0, True), seen
            assert len(opening) <= 7
            assert all(len(line) <= 80 for line in opening)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_completion_waits_for_no_server(number: signal.Signals, edge_home: Path) -> None:
    stopped = list[int]()

    def act(person: Terminal) -> None:
        person.until(PROMPT)
        stopped.extend(children(person.process.pid))
        for pid in stopped:
            os.kill(pid, number)
        person.type("/session \t0")
        place = person.until("0", after=person.until("/session"))
        person.type("\x15/agent gu")
        place = person.until("Answers questions", after=place)  # the menu, of what is known here
        person.type("\x15/cost\r")
        place = person.until("Nothing was asked yet", after=place)
        person.type("\x04")
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    status, seen = await at(environ(edge_home), act, *CHAT, "--via-mcp", "--agent", "guide")
    assert (status, "Traceback" in seen, len(stopped)) == (0, False, 1), seen


@pytest.mark.parametrize("ends", ["exit 3", "kill -9 $$"])
async def test_an_editor_that_fails_loses_nothing(ends: str, edge_home: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\nprintf 'written with care' > \"$1\"\n{ends}\n", encoding="utf-8")
    editor.chmod(0o755)
    async with OpenAIPeer() as peer:

        def in_prompt(person: Terminal) -> None:
            place = asked(person, "/edit")
            place = person.until("written with care", after=person.until("Nothing was sent.", after=place))
            person.type(" [[chunks1]]\r")
            said(person, place)
            person.type("\x04")

        def in_lines(person: Terminal) -> None:
            place = asked(person, "/edit")
            person.until(PROMPT, after=person.until("what you wrote is in", after=place))
            (kept,) = tmp_path.glob("*.md")
            assert str(kept) in person.seen
            assert kept.read_text(encoding="utf-8") == "written with care"
            person.type("\x04")

        env = environ(edge_home, peer) | {"EDITOR": str(editor), "TMPDIR": str(tmp_path)}
        status, seen = await at(env, in_prompt, *DROID)
        assert (status, messages_of(peer)) == (0, ["written with care [[chunks1]]"]), seen
        status, seen = await at(env, in_lines, *DROID, "--screen-reader", columns=300)
        assert status == 0, seen


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/modle x", "/model"),
        ("/exit", "/quit"),
        ("/clear", "/new"),
        ("/AGENTS", "/agents"),
        ("/histroy", "/sessions"),
        ("exit", "/quit"),
        ("Quit ", "/quit"),
    ],
)
async def test_what_looks_like_a_command_is_not_sent(typed: str, meant: str, edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = asked(person, typed)
            place = person.until(PROMPT, after=person.until(f"did you mean {meant}?", after=place))
            person.type(f" {meant}\r")
            said(person, place)
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert (status, messages_of(peer)) == (0, [f" {meant}"]), seen


async def test_a_retry_says_what_it_does(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = said(person, asked(person, "first [[chunks2]]"))
            person.type("/retry\r")
            place = said(person, person.until("asked anew, which costs again", after=place))
            person.type("[[e401]] no\r")
            place = person.until(PROMPT, after=person.until("failed (auth", after=place))
            person.type("/retry\r")
            place = person.until("asked anew; what the answer that was failed cost stays.", after=place)
            person.until(PROMPT, after=person.until("failed (auth", after=place))
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert len([each for each in peer.exchanges if "completions" in each.path]) == 4
