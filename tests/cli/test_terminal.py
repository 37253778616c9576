"""What commands print: text of agents, of other users and of whoever typed it cannot drive the terminal or hide."""

import asyncio
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from agentapi_mcp.base.paging import Page
from agentapi_mcp.cli.chat.clients import ChatClient, Following
from agentapi_mcp.cli.chat.options import ChatOptions
from agentapi_mcp.cli.chat.single import chat
from agentapi_mcp.cli.main import main
from agentapi_mcp.cli.outputs import json_text, print_json, table
from agentapi_mcp.cli.replies import ChatReply, Fields
from agentapi_mcp.cli.terminal import (
    CleanStream,
    cleaned,
    print_err,
    print_fact,
    print_labelled,
    print_out,
)
from agentapi_mcp.presentation.models import AgentOut, ModelOut, SessionOut
from tests.support.terminals import terminal
from tests.support.visibility import HIDDEN, WRITTEN, hidden_texts, hides_something

HOSTILE = "a\x1b]0;title\x07b\x9b2Jc\rd\u202e\u2066\u200b\u00ad\U000e0041\u2028e"
HARMLESS = "a]0;titleb2Jcde"


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    @override
    def isatty(self) -> bool:
        return True


@contextmanager
def screens() -> Generator[tuple[Screen, Screen]]:
    """Put terminals in the place of stdout and stderr."""
    before, (out, err) = (sys.stdout, sys.stderr), (Screen(newline=""), Screen(newline=""))
    sys.stdout, sys.stderr = out, err
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TERM", "xterm-256color")
            patch.delenv("NO_COLOR", raising=False)
            yield out, err
    finally:
        sys.stdout, sys.stderr = before


def plain(text: str) -> str:
    """Take out lines and tabs, which stay where a reply has them."""
    return text.replace("\n", "").replace("\t", "")


def test_what_is_not_seen_is_removed_from_messages(capsys: pytest.CaptureFixture[str]) -> None:
    print_err(f"{HOSTILE} é\n\tend")
    assert capsys.readouterr().err == f"{HARMLESS} é\n\tend\n"


def test_what_is_not_seen_is_removed_from_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table(("NAME",), [(HOSTILE.replace("\r", "").replace("\u2028", ""), None)])
    assert HARMLESS in capsys.readouterr().out


def test_a_cell_is_as_wide_as_what_is_shown_of_it() -> None:
    with screens() as (out, _):
        table(("NAME", "ID"), [("\u200b" * 40 + "ann", "x"), ("bo", "y")])
    assert out.getvalue() == "NAME  ID\nann   x\nbo    y\n"


def test_a_reply_is_cleaned_in_a_terminal_and_kept_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_out("\x1b]0;mine\x07hello")
    assert capsys.readouterr().out == "\x1b]0;mine\x07hello\n"
    seen, shown = pty.openpty()
    with open(shown, "w", encoding="utf-8") as terminal:  # noqa: PTH123  # a descriptor has no path
        monkeypatch.setattr(sys, "stdout", terminal)
        print_out("\x1b]0;mine\x07hello")
        assert os.read(seen, 100) == b"]0;minehello\r\n"
    os.close(seen)


@pytest.mark.parametrize("text", WRITTEN)
def test_what_people_write_is_shown_also_where_it_comes_in_pieces(text: str) -> None:
    with screens() as (out, _), cleaned():
        for character in text:
            print_out(character, end="")
    assert out.getvalue() == text


@given(st.lists(hidden_texts, max_size=5))
def test_nothing_that_is_printed_hides_anything(texts: list[str]) -> None:
    with screens() as (out, err), cleaned():
        for text in texts:
            print_out(text, end="")
            print_err(text)
            table(("NAME", text), [(text, text)])
            print_json({text: [text, {"name": text}]})
            sys.stderr.write(text)  # a library
            sys.stdout.writelines([text, text])
    assert not hides_something(plain(out.getvalue() + err.getvalue()))


@dataclass(frozen=True)
class HostileClient(ChatClient):
    """Agents, replies, bills and errors of this text alone."""

    text: str

    @override
    async def agents(self) -> list[AgentOut]:
        return []

    @override
    async def default_agent(self) -> str | None:
        return self.text

    @override
    async def models(self, agent: str | None) -> list[ModelOut]:
        return []

    @override
    async def sessions(self, cursor: str | None) -> Page[SessionOut]:
        return Page(())

    @override
    async def session_id(self, turn_id: str) -> str:
        return turn_id

    @override
    async def transcript(self, session_id: str) -> str:
        return self.text

    @override
    async def send(self, options: ChatOptions, message: str, following: Following) -> ChatReply:
        for character in self.text:
            following.on_text(character)
        return ChatReply(
            session_id=self.text,
            completed=True,
            cancelled=False,
            text=self.text,
            bill=self.text,
            error=self.text,
            warning=self.text,
            joined=self.text,
            turn={self.text: self.text},
        )

    @override
    async def estimate(self, options: ChatOptions, message: str) -> Fields:
        return {"text": self.text}


@pytest.mark.parametrize("as_json", [False, True])
@given(text=hidden_texts)
def test_nothing_that_the_chat_shows_hides_anything(text: str, as_json: bool) -> None:  # noqa: FBT001  # a parameter
    with screens() as (out, err), cleaned():
        asyncio.run(chat(HostileClient(text), ChatOptions(as_json=as_json), "hello", home=Path(), environ={}))
    shown = re.sub(r"\x1b\[[0-9;]*m|\r\x1b\[K", "", out.getvalue() + err.getvalue())  # our own
    assert not hides_something(plain(shown))
    assert "session " in err.getvalue() if not as_json else out.getvalue()


@given(hidden_texts, hidden_texts)
def test_only_our_own_words_are_coloured(word: str, text: str) -> None:
    with screens() as (out, err):
        print_labelled(word, "red", text)
        print_fact(word)
        print_err(text)
    assert out.getvalue().startswith("\x1b[31m")
    assert err.getvalue().startswith("\x1b[90m")
    assert not hides_something(plain(out.getvalue().replace("\x1b[31m", "", 1).replace("\x1b[0m", "", 1)))
    assert not hides_something(plain(err.getvalue().replace("\x1b[90m", "", 1).replace("\x1b[0m", "", 1)))


def test_facts_are_grey_in_a_terminal_and_plain_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_fact("[guide · free]")
    assert capsys.readouterr().err == "[guide · free]\n"
    with screens() as (_, err):
        print_fact("[guide · free]")
    assert err.getvalue() == "\x1b[90m[guide · free]\x1b[0m\n"


@given(hidden_texts)
def test_programs_read_from_json_what_was_there(text: str) -> None:
    assert not hides_something(plain(json_text([text])))
    assert json.loads(json_text({text: text})) == {text: text}


def test_json_escapes_what_is_not_seen_in_a_pipe_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_json("a\x9b\u202e\U000e0041👩🏽‍💻")
    assert capsys.readouterr().out == '"a\\u009b\\u202e\\udb40\\udc41👩🏽‍💻"\n'


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_json_is_json_in_every_encoding_of_stdout(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, written = {"ä": "größe “日本” 👩🏽‍💻 \x9b\x7f\udcff"}, io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, "strict"))
    print_json(value)
    assert json.loads(written.getvalue()) == value
    assert not hides_something(plain(written.getvalue().decode("ascii")))


@pytest.mark.parametrize(
    "words",
    [
        ("sesions{0}",),
        ("--{0}option",),
        ("sessions", "li{0}st"),
        ("sessions", "list", "--limit", "{0}x"),
        ("sessions", "export", "x", "--format", "a{0}"),
        ("sessions", "rename", "x", "a", "b{0}"),
        ("chat", "--temperature", "{0}"),
        ("chat", "--{0}", "--retry"),
        ("turns", "show", "--json{0}"),
    ],
    ids=" ".join,
)
def test_the_messages_of_the_command_line_quote_nothing_that_hides(words: tuple[str, ...]) -> None:
    for hidden in HIDDEN.values():
        result = CliRunner().invoke(main, [word.format(hidden) for word in words])
        assert result.exit_code == 2
        assert "Error:" in result.stderr
        assert not hides_something(plain(result.stderr))


def test_click_does_not_write_past_the_stream_where_the_encoding_is_ascii(tmp_path: Path) -> None:
    program = tmp_path / "echoes.py"
    program.write_text(
        "import click\nfrom agentapi_mcp.cli.terminal import clean_streams\n"
        "clean_streams()\nclick.echo('said \\x07', err=True)\n",
        encoding="utf-8",
    )
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(program)], env=environ, capture_output=True, check=False)  # noqa: S603  # ours
    assert done.stderr == b"said \n"


def test_an_uncaught_exception_is_no_way_around(tmp_path: Path) -> None:
    program = tmp_path / "fails.py"
    program.write_text(
        "from agentapi_mcp.cli.terminal import clean_streams\nclean_streams()\nraise ValueError('\\x1b[2J')\n",
        encoding="utf-8",
    )
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(program)], env=environ, capture_output=True, check=False)  # noqa: S603  # ours
    assert b"ValueError: [2J" in done.stderr


def program(redirection: str, *words: str) -> tuple[int, str]:
    """Run the program under a shell's redirection, and return its status and what it says on stderr."""
    environ = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    command = [*shell, sys.executable, "-m", "agentapi_mcp", *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    return done.returncode, done.stderr


REFUSED = ("restore", "/no/such/file", "--json")  # which prints its error on both


@pytest.mark.acceptance
@pytest.mark.parametrize("words", [("--help",), ("completion", "bash"), ("status", "--json"), REFUSED], ids=" ".join)
def test_a_full_disk_is_named_in_one_line(words: tuple[str, ...]) -> None:
    assert program("> /dev/full", *words) == (
        1,
        "agentapi-mcp: The output cannot be written: No space left on device.\n",
    )
    assert program("> /dev/full 2>&1", *words) == (1, "")


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("words", "status"), [(("--help",), 0), (("status", "--json"), 0), (REFUSED, 2)], ids=["help", "json", "refused"]
)
def test_what_goes_to_closed_streams_goes_nowhere(words: tuple[str, ...], status: int) -> None:
    closed, said = program(">&-", *words)
    assert (closed, "Traceback" in said, "internal error" in said) == (status, False, False)
    assert program("<&- >&- 2>&-", *words) == (status, "")


@pytest.mark.acceptance
@pytest.mark.parametrize("words", [("--help",), ("help", "sessions"), ("sessions", "list", "--help")], ids=" ".join)
def test_help_fits_a_narrow_terminal(words: tuple[str, ...]) -> None:
    with terminal({"PATH": os.defpath, "TERM": "xterm"}, *words, columns=40) as person:
        assert person.leave() == 0
    text = person.seen.partition("\r\n\r\n")[2].partition("Examples:")[0]  # the lines that are wrapped
    assert len(text.splitlines()) > 8
    assert max(map(len, text.splitlines())) <= 40


def test_the_streams_are_the_process_s_own_again_afterwards() -> None:
    with screens() as (out, err):
        with cleaned(), cleaned():
            assert isinstance(sys.stdout, CleanStream)
            assert isinstance(sys.stdout.stream, Screen)
        assert (sys.stdout, sys.stderr) == (out, err)


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é b\\udcff\n"), ("ascii", "\\xe9 b\\udcff\n")])
def test_what_cannot_be_encoded_is_escaped(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, "strict"))
    print_out("é b\udcff")
    assert written.getvalue().decode(encoding) == shown
