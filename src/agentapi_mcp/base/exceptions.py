"""Exceptions as task groups raise them."""


def innermost(error: BaseException) -> BaseException:
    """Return the first exception within nested groups: the one that ended a task group."""
    while True:
        match error:
            case BaseExceptionGroup(exceptions=(first, *_)):
                error = first
            case _:
                return error
