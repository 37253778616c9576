"""Helpers for exception groups."""


def innermost(error: BaseException) -> BaseException:
    """Return the first exception of nested groups: the one that ended the task group."""
    while True:
        match error:
            case BaseExceptionGroup(exceptions=(first, *_)):
                error = first
            case _:
                return error
