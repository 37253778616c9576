"""Exceptions out of task groups."""

from agentapi_mcp.base.exceptions import innermost, notes_of, with_notes_of


def test_the_first_exception_within_groups_is_found() -> None:
    first = ValueError("first")
    assert innermost(ExceptionGroup("outer", [ExceptionGroup("inner", [first, OSError()]), KeyError()])) is first
    assert innermost(first) is first


def test_an_error_takes_the_notes_of_its_cause() -> None:
    cause = OSError()
    cause.add_note("a note")
    error = with_notes_of(cause, ValueError("text"))
    assert notes_of(error) == ("a note",)
    assert str(error) == "text"
    assert notes_of(with_notes_of(OSError(), ValueError())) == ()
