"""Progress of a running answer, for clients that ask for it."""

from collections.abc import Awaitable, Callable

from agentapi_mcp.core.conversations.remote_turns import Progress
from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.presentation.text import clean

_LEAST_STEP = 0.001


def reporter(context: Context) -> Callable[[Progress], Awaitable[None]]:
    """Return what tells the client of progress; the SDK drops it when the client gave no token.

    The protocol wants a value that grows each time, also while the agent is silent: it is the seconds since the start.
    """
    told = 0.0

    async def report(progress: Progress) -> None:
        nonlocal told
        told = max(progress.elapsed.total_seconds(), told + _LEAST_STEP)
        await context.session.report_progress(round(told, 3), message=describe(progress))

    return report


def describe(progress: Progress) -> str:
    """Say how far the answer is: what the agent does, how much there is, and its end."""
    doing = f"{progress.activity}, " if progress.activity else ""
    tail = f": …{clean(progress.tail)}" if progress.tail else ""
    return f"{doing}{progress.characters:,} characters so far{tail}"
