"""What commands print: text of agents and of other users cannot drive the terminal."""

import pytest

from agentapi_mcp.cli.outputs import print_err, table

HOSTILE = "a\x1b]0;title\x07b\x9b2Jc\rd"
HARMLESS = "a]0;titleb2Jcd"


def test_escape_sequences_are_removed_from_messages(capsys: pytest.CaptureFixture[str]) -> None:
    print_err(f"{HOSTILE} é\n\tend")
    assert capsys.readouterr().err == f"{HARMLESS} é\n\tend\n"


def test_escape_sequences_are_removed_from_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table(("NAME",), [(HOSTILE.replace("\r", ""), None)])
    assert HARMLESS in capsys.readouterr().out
