"""What commands print: text of agents and of other users cannot drive the terminal."""

import os
import pty
import sys

import pytest

from agentapi_mcp.cli.outputs import print_err, print_out, table

HOSTILE = "a\x1b]0;title\x07b\x9b2Jc\rd"
HARMLESS = "a]0;titleb2Jcd"


def test_escape_sequences_are_removed_from_messages(capsys: pytest.CaptureFixture[str]) -> None:
    print_err(f"{HOSTILE} é\n\tend")
    assert capsys.readouterr().err == f"{HARMLESS} é\n\tend\n"


def test_escape_sequences_are_removed_from_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table(("NAME",), [(HOSTILE.replace("\r", ""), None)])
    assert HARMLESS in capsys.readouterr().out


def test_escape_sequences_of_a_reply_are_removed_in_a_terminal_and_kept_in_a_pipe(
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
