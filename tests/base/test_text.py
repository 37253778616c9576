"""Texts of others, as they are shown."""

from agentapi_mcp.base.text import listed, printable


def test_what_no_terminal_prints_becomes_a_space() -> None:
    assert printable("a\x1b[31m\tß\u202e\n\U0001f600") == "a [31m ß  \U0001f600"


def test_at_most_twenty_names_are_listed() -> None:
    names = [f"n{number}" for number in range(21)]
    assert listed(names[:20]) == ", ".join(names[:20])
    assert listed(names) == ", ".join(names[:20]) + ", …"
    assert listed([]) == "none"
