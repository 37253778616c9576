"""What is left of a provider's message."""

import pytest

from agentapi_mcp.backends.wire.redaction import LONGEST_LINE, Redactor


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Rate limit reached.", "Rate limit reached."),
        ("\n\n  first \t line\nsecond", "first line"),
        ("key hunter2-hunter2 is wrong", "key [hidden] is wrong"),
        ("Incorrect API key provided: sk-abc12***xyz9.", "Incorrect API key provided: [hidden]"),
        ("Bearer ya29.c0ffee.beef refused", "[hidden] refused"),
        ("AIzaSyA1234567890 is not valid", "[hidden] is not valid"),
        ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln expired", "token [hidden] expired"),
        ("at https://example.test/v1?key=abc123&x=1", "at https://example.test/v1?[hidden]&x=1"),
        ("failed in /srv/app/main.py at line 3", "failed in [path] at line 3"),
        ("no model openai/gpt-4o, see https://example.test/docs/models", None),
        ("red \x1b[31malert\u202e", "red [31malert"),
        ("\x00\n", ""),
    ],
)
def test_a_line_is_shown_without_what_may_not_be_seen(said: str, shown: str | None) -> None:
    assert Redactor(["hunter2-hunter2", "hunter2"]).line(said) == (said if shown is None else shown)


def test_a_long_line_is_cut() -> None:
    assert len(Redactor().line("a " * 10_000)) == LONGEST_LINE


def test_a_trivial_secret_does_not_blank_the_message() -> None:
    assert Redactor(["a"]).line("a banana") == "a banana"
