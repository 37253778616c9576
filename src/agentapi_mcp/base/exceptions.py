"""Helpers for exception groups and notes of exceptions."""

from typing import TypeVar

_Error = TypeVar("_Error", bound=BaseException)


def innermost(error: BaseException) -> BaseException:
    """Return the first exception of nested groups: the one that ended the task group."""
    while True:
        match error:
            case BaseExceptionGroup(exceptions=(first, *_)):
                error = first
            case _:
                return error


def notes_of(error: BaseException) -> tuple[str, ...]:
    """Return the notes of an exception, which are for the operator and not for callers."""
    return tuple(getattr(error, "__notes__", ()))


def with_notes_of(cause: BaseException, error: _Error) -> _Error:
    """Return `error` with the notes of its cause."""
    for note in notes_of(cause):
        error.add_note(note)
    return error
