"""A person at a terminal that edits: what is typed, pasted and shown, in a real one."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.testing.http import Steps
from tests.acceptance.test_processes import environ
from tests.support.peers.openai import OpenAIPeer
from tests.support.terminals import Terminal, plain, started_at_terminal

pytestmark = pytest.mark.acceptance
TERM = {"TERM": "xterm-256color"}
PROMPT = " >"
AT_PROMPT = "droid\x1b[0m >"


CHAT = (sys.executable, "-m", "agentapi_mcp", "chat")


# The home is that of other tests, whose answers nobody may have heard: these messages are asked anew.
DROID = (*CHAT, "--new", "--agent", "droid")


async def at(env: dict[str, str], act: Callable[[Terminal], None], *command: str, columns: int = 80) -> tuple[int, str]:
    """Do something at a terminal, in a thread, while the provider answers here."""

    def do() -> tuple[int, str]:
        with started_at_terminal({**TERM, **env}, *command, columns=columns) as person:
            act(person)
            return person.leave(), person.seen

    return await asyncio.to_thread(do)


def said(person: Terminal, after: int = 0) -> int:
    """Wait for the prompt after the bill of an answer."""
    return person.until(PROMPT, after=person.until("total ", after=after))


def messages_of(peer: OpenAIPeer) -> list[str]:
    """Return what the provider was asked last, message by message."""
    asked = [exchange for exchange in peer.exchanges if exchange.path.endswith("/chat/completions")]
    return [str(each["content"]) for each in json.loads(asked[-1].content)["messages"] if each["role"] == "user"]


def provider_asked(peer: OpenAIPeer, loop: asyncio.AbstractEventLoop, person: Terminal) -> None:
    """Wait, in the person's thread, until the provider has been asked."""
    try:
        asyncio.run_coroutine_threadsafe(peer.received(path="/chat/completions"), loop).result(60)
    except TimeoutError:
        raise AssertionError(person.seen) from None


# A conversation that logs when a signal comes, at its prompt and while an answer is written.
LOGGING = """
import asyncio, logging, os, pathlib, signal, sys
from agentapi_mcp.base.preparation import allow_rich
from agentapi_mcp.telemetry import configure_logs
allow_rich()
from agentapi_mcp.cli.chat.conversation import Conversation, converse
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.prompts import PromptScreen
from agentapi_mcp.cli.chat.screens import LineScreen
configure_logs(None)
screen = PromptScreen(pathlib.Path(sys.argv[1])) if sys.argv[2:] == ["prompt"] else LineScreen()
heard = asyncio.Event()
def hear():
    logging.getLogger("a").warning("at_any_time")
    heard.set()
async def greet(): pass
async def run(text, interrupted):
    answer = screen.answer()
    answer.add("one half ")
    heard.clear()
    os.kill(os.getpid(), signal.SIGUSR1)
    await heard.wait()
    await asyncio.get_running_loop().run_in_executor(None, logging.getLogger("a.thread").warning, "in_an_answer")
    answer.add("and the other half")
    answer.end()
    return text != "end"
async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, hear)
    await converse(Conversation(None, ChatOptions(agent="droid"), screen, None), greet, run)
asyncio.run(main())
"""


@pytest.mark.parametrize("screen", ["prompt", "lines"])
async def test_a_line_of_the_log_overwrites_neither_prompt_nor_answer(screen: str, tmp_path: Path) -> None:
    def act(person: Terminal) -> None:
        person.until(PROMPT)
        person.type("half a mess")
        place = person.until("mess")
        os.kill(person.process.pid, signal.SIGUSR1)
        if screen == "prompt":
            line = person.until("event=at_any_time", after=place)
            place = person.until("half a mess", after=line)  # the prompt stands below it, with what was typed
        person.type("age\r")
        place = person.until("one half and the other half", after=place)
        place = person.until("event=in_an_answer", after=place)
        place = person.until(PROMPT, after=place)
        person.type("end\r")
        person.until("event=in_an_answer", after=person.until("other half", after=place))

    env = {"PATH": os.defpath}
    status, seen = await at(env, act, sys.executable, "-c", LOGGING, str(tmp_path / "history"), screen)
    assert (status, "Traceback" in seen) == (0, False), seen
    assert seen.count("event=at_any_time") == 3


TEXT = "".join(
    f"{place:>6}\tif x:\n\n        y = 'é日本👩🏽‍💻' \\ # \x1b[31m \x7f {place % 7}\n" for place in range(3500)
)


async def test_a_pasted_text_of_any_length_is_one_message_and_unchanged(edge_home: Path) -> None:
    assert len(TEXT.encode()) > 200_000
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.paste(f"{TEXT}the question is: [[chunks1]]")
            place = person.until("characters]")
            person.type("\r")
            place = said(person, place)
            person.type("before \x1b[200~one\ttwo\r\r  three\x1b[201~ after\r")
            said(person, place)
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert messages_of(peer) == [
            f"{TEXT}the question is: [[chunks1]]",
            "before one\ttwo\n\n  three after",
        ]


async def test_what_no_message_can_hold_is_told_and_the_rest_is_sent_by_another_enter(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.paste("a\0b\nc\udcffd \0" + "long " * 300)
            person.type("\r")
            place = person.until("what is not UTF-8 is shown as �, and 2 NUL characters are left out")
            person.until("characters]", after=place)
            person.type("\r")
            said(person, place)
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert messages_of(peer) == ["ab\nc�d " + "long " * 300]


async def test_a_line_is_edited_and_an_earlier_one_comes_back_also_the_next_time(edge_home: Path) -> None:
    (edge_home / "chat-history.jsonl").unlink(missing_ok=True)
    async with OpenAIPeer() as peer:

        def first(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("wrd\x1b[D\x1b[Do\x05\x1b\rsecond line\r")  # End, Alt-Enter
            said(person)
            person.type("\x04")

        def second(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("\x1b[A")
            person.until("second line")
            person.type("!\r")
            said(person)
            person.type("\x04")

        env = environ(edge_home, peer)
        assert (await at(env, first, *DROID))[0] == 0
        assert (edge_home / "chat-history.jsonl").stat().st_mode & 0o777 == 0o600
        assert (await at(env, second, *DROID))[0] == 0
        assert messages_of(peer) == ["word\nsecond line!"]


@pytest.mark.parametrize("written", ['{"format": "agentapi-mcp chat history", "version": 99}\n', None])
async def test_a_history_that_cannot_be_used_is_told_once_and_left_alone(written: str | None, edge_home: Path) -> None:
    history = edge_home / "chat-history.jsonl"
    history.unlink(missing_ok=True)
    if written is None:
        history.mkdir()
    else:
        history.write_text(written, encoding="utf-8")

    def act(person: Terminal) -> None:
        person.until(PROMPT)
        person.type("which agents work?\r")
        place = said(person)
        person.type("which agents work now?\r")
        said(person, place)
        person.type("\x04")

    status, seen = await at(environ(edge_home), act, *CHAT, "--agent", "guide")
    assert status == 0, seen
    assert seen.count("is not kept for the next time") == 1, seen
    if written is None:
        history.rmdir()
    else:
        assert history.read_text(encoding="utf-8") == written
        history.unlink()


async def test_what_is_typed_while_an_answer_streams_waits_in_the_prompt(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("[[slow]] [[chunks9]]\r")
            provider_asked(peer, loop, person)
            person.type("typed meanwhile\r")
            loop.call_soon_threadsafe(steps.release, 20)
            place = person.until("w7 w8")
            assert "typed" not in person.seen
            place = person.until("typed meanwhile", after=person.until("total ", after=place))
            person.type("!\x1b\x7f")  # Alt-Backspace takes the last word
            person.type("\x15\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert len([each for each in peer.exchanges if each.path.endswith("/chat/completions")]) == 1


async def test_the_terminal_may_get_another_size_in_mid_answer(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("[[slow]] [[chunks60]]\r")
            loop.call_soon_threadsafe(steps.release, 31)
            place = person.until("w25 ")
            person.resize(30)
            loop.call_soon_threadsafe(steps.release, 40)
            place = person.until("w59", after=place)
            said(person, place)
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        answer = plain(seen).replace("\r", "")
        rows = answer[answer.index("w0 ") : answer.index("w59")].split("\n")
        assert len(rows[0]) > 70
        assert all(len(row) <= 30 for row in rows[2:]), rows
        assert re.findall(r"w\d+", answer[answer.index("w0 ") :]) == [f"w{place}" for place in range(60)]
        assert not re.search(r"\x1b\[\d*[ABCDHJK]", seen[seen.index("w0 ") : seen.index("w59")])


async def test_ctrl_z_and_back_in_mid_answer_and_at_the_prompt(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        loop, env = asyncio.get_running_loop(), environ(edge_home, peer)

        def act(person: Terminal) -> None:
            person.type(f"{sys.executable} -m agentapi_mcp chat --agent droid\r")
            place = person.until(AT_PROMPT)
            person.type("[[slow]] [[chunks9]]\r")
            provider_asked(peer, loop, person)
            person.type("\x1a")
            place = person.until("Stopped", after=place)
            person.type("fg\r")
            loop.call_soon_threadsafe(steps.release, 20)
            place = said(person, person.until("w8", after=place))
            person.type("half\x1a")
            place = person.until("Stopped", after=place)
            person.type("fg\r")
            place = person.until("half", after=person.until("fg", after=place))
            person.type(" a line\r")
            loop.call_soon_threadsafe(steps.release, 20)
            place = said(person, place)
            person.type("\x04")
            person.until("bash-", after=place)
            person.type("exit\r")

        status, seen = await at(env, act, "bash", "--norc", "-i")
        assert messages_of(peer) == ["[[slow]] [[chunks9]]", "half a line"], seen
        assert status == 0, seen


async def test_ctrl_c_stops_an_answer_and_twice_leaves_quietly(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("[[slow]]\r")
            provider_asked(peer, loop, person)
            person.type("\x03")
            place = said(person)
            person.type("thrown away\x03")
            place = person.until("Ctrl-C again leaves", after=place)
            person.until(PROMPT, after=place)
            person.type("\x03")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert (status, "Traceback" in seen) == (0, False), seen
        assert "cancelled" in seen


async def test_no_color_and_forty_columns(edge_home: Path) -> None:
    def act(person: Terminal) -> None:
        person.until(PROMPT)
        person.type("which agents work?\r")
        said(person)
        person.type("\x04")

    status, seen = await at({**environ(edge_home), "NO_COLOR": "1"}, act, *CHAT, "--agent", "guide", columns=40)
    assert status == 0, seen
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38|48|4[0-7]|10[0-7])(?:;\d+)*m", seen)
    answer = plain(seen).replace("\r", "")
    rows = answer[answer.index("agents work right") :].split("\n")
    assert all(len(row) <= 40 for row in rows[: rows.index(next(row for row in rows if "total" in row)) + 1]), rows
    assert "[guide · free · total $0.00]\n" in answer


async def test_commands_are_completed_and_unknown_ones_are_messages(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("/etc/hosts is broken, why? [[chunks1]]\r")
            place = said(person)
            person.type("/modle x\r")
            place = person.until("did you mean /model?", after=place)
            person.until(PROMPT, after=place)
            person.type("/mod\t\t")
            place = person.until("/model", after=place)
            person.type("\x15/agent gu")
            place = person.until("Answers questions", after=place)  # the menu
            person.type("\t\r\r")
            place = person.until("goes to guide", after=place)
            place = person.until("guide\x1b", after=place)
            person.type("/new hello\r")
            place = person.until("/new takes nothing after it", after=place)
            person.until(PROMPT, after=place)
            person.type("/quit\r")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert messages_of(peer) == ["/etc/hosts is broken, why? [[chunks1]]"]


async def test_what_cannot_be_used_is_refused_at_once(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = person.until(PROMPT)
            for line, answer in (
                ("/agent ccrouter", "AGENTAPI_CCROUTER_BASE_URL is not set"),
                ("/agent nobody", "There is no agent nobody; there are: "),
                ("/model nonsense", "droid has no model nonsense"),
                ("/session 00000000", "There is no session 00000000"),
                ("/model", "agent's own model"),
            ):
                person.type(f"{line}\r")
                place = person.until(PROMPT, after=person.until(answer, after=place))
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert (status, [each.path for each in peer.exchanges if "completions" in each.path]) == (0, []), seen


async def test_the_guide_borrows_the_model_that_is_named_for_it_and_says_what_that_costs(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = person.until(PROMPT)
            for line, answer in (
                ("How do I cancel a turn?", "total $0.00 "),
                ("/cost", "Together: 1 answer, tokens in: 0, out: 0, $0.00."),
                ("/model gpt-none", "No agent has a model gpt-none; /models lists all."),
                ("/model ccrouter/gemini-3.5-flash-lite", "AGENTAPI_CCROUTER_BASE_URL is not set"),
                ("/model gpt-4o", "goes to guide, and gpt-4o of droid writes the answer: $"),
            ):
                person.type(f"{line}\r")
                place = person.until("guide\x1b[0m >", after=person.until(answer, after=place))
            person.type("How do I restore a backup? [[chunks2]]\r")
            place = said(person, person.until("gpt-4o of droid wrote this", after=place))
            for line, answer in (("/model", "goes to guide, without a model"), ("How do I log in?", "guide · free")):
                person.type(f"{line}\r")
                place = person.until("guide\x1b[0m >", after=person.until(answer, after=place))
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *CHAT, "--new", "--agent", "guide")
        assert status == 0, seen
        assert "for a million tokens. /model off" in " ".join(plain(seen).split())
        assert len([each for each in peer.exchanges if each.path.endswith("/chat/completions")]) == 1


async def test_the_commands_that_tell_what_there_is(edge_home: Path, tmp_path: Path) -> None:
    transcript = tmp_path / "talk.md"
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = said(person, asked(person, "first [[chunks2]]"))
            session = re.findall(r"session ([0-9a-f]{8})\]", person.seen)[0]
            for line, answer in (
                ("/copy", "\x1b]52;c;dzAgdzEg\x07"),
                ("/cost", "Together: 1 answer, tokens in: 11, out: 5, $0.00014."),
                ("/models droid", "gpt-"),
                ("/sessions", session),
                ("/help", "ask the last message again"),
                (f"/export {os.path.relpath(transcript)}", f"Written to {transcript.resolve()}."),
                (f"/export {transcript}", "is there already"),
                ("/new", "begins a session"),
                (f"/session {session}", "goes on with"),
            ):
                person.type(f"{line}\r")
                place = person.until(PROMPT, after=person.until(answer, after=place))
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer), act, *DROID)
        assert status == 0, seen
        assert "> first [[chunks2]]" in transcript.read_text(encoding="utf-8")


async def test_the_commands_that_ask(edge_home: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'written\\nin an editor\\n' > \"$1\"\n", encoding="utf-8")
    editor.chmod(0o755)
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            place = said(person, asked(person, "first [[chunks2]]"))
            person.type("/system be brief\r")
            place = person.until("Instructions for the next messages: be brief", after=place)
            person.until(PROMPT, after=place)
            person.type("/retry\r")
            place = said(person, place)
            person.type("/edit\r")
            place = person.until("in an editor", after=place)
            person.type("\r")
            said(person, place)
            person.type("\x04")

        status, seen = await at(environ(edge_home, peer) | {"EDITOR": str(editor)}, act, *DROID)
        assert status == 0, seen
        assert messages_of(peer) == ["first [[chunks2]]", "first [[chunks2]]", "written\nin an editor"]
        assert "be brief" in peer.exchanges[-1].content.decode()
        assert "total $0.00042" in seen


@pytest.mark.parametrize("way", ["prompt", "lines"])
async def test_an_editor_has_the_keys_to_itself(way: str, edge_home: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "write here"\nread -r line\nprintf "%s" "$line" > "$1"\n', encoding="utf-8")
    editor.chmod(0o755)
    typed = "how do I add OpenRouter to the list? " * 5
    async with OpenAIPeer() as peer:

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("/edit\r")
            place = person.until("write here")
            for key in typed:
                person.type(key)
            person.type("\r")
            if way == "prompt":
                place = person.until(PROMPT, after=place)
                person.type("\r")
            said(person, place)
            person.type("\x04")

        options = () if way == "prompt" else ("--screen-reader",)
        status, seen = await at(environ(edge_home, peer) | {"EDITOR": str(editor)}, act, *DROID, *options)
        assert status == 0, seen
        assert messages_of(peer) == [typed.rstrip()]


def asked(person: Terminal, message: str) -> int:
    """Ask at the first prompt."""
    place = person.until(PROMPT)
    person.type(f"{message}\r")
    return place


async def test_ctrl_c_twice_leaves_quietly_under_make(edge_home: Path, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("run:\n\t@$(CHAT)\n", encoding="utf-8")
    async with OpenAIPeer(pace=Steps()) as peer:
        loop = asyncio.get_running_loop()

        def act(person: Terminal) -> None:
            person.until(PROMPT)
            person.type("[[slow]]\r")
            provider_asked(peer, loop, person)
            person.type("\x03")
            said(person)
            person.type("\x03")

        for term in ("xterm", "dumb"):
            env = environ(edge_home, peer) | {"TERM": term, "CHAT": " ".join((*DROID, "--via-mcp"))}
            status, seen = await at(env, act, "make", "-C", str(tmp_path), "run")
            assert (status, "***" in seen, "Traceback" in seen) == (0, False, False), seen
            peer.exchanges.clear()
