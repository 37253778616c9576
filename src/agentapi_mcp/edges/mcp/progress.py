"""Progress notifications of a running turn."""

from collections.abc import Awaitable, Callable

from agentapi_mcp.core.conversations.turn_follower import Progress
from agentapi_mcp.edges.mcp.callers import Context
from agentapi_mcp.presentation.text import clean

_LEAST_STEP = 0.001


def reporter(context: Context) -> Callable[[Progress], Awaitable[None]] | None:
    """Return a function that sends progress to the client; None if it gave no token, and so wants none."""
    if context.meta is None or "progress_token" not in context.meta:
        return None
    # MCP requires a value that increases each time, also while the agent is silent: so it is the elapsed seconds.
    reported = 0.0

    async def report(progress: Progress) -> None:
        nonlocal reported
        reported = max(progress.elapsed.total_seconds(), reported + _LEAST_STEP)
        await context.session.report_progress(round(reported, 3), message=describe(progress))

    return report


def describe(progress: Progress) -> str:
    """Describe the progress: the agent's activity, the length of the answer so far, and its end."""
    doing = f"{progress.activity}, " if progress.activity else ""
    tail = f": …{clean(progress.tail)}" if progress.tail else ""
    return f"{doing}{progress.characters:,} characters so far{tail}"
