"""Signals that end a command: the work is unwound first, so that nothing of it is left half done."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager

import click

from agentapi_mcp.base.lazy import LazyModule

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import asyncio
else:
    asyncio = LazyModule("asyncio")

_OF_SIGNALS = 128  # what shells add to the number of the signal that ended a program


@contextmanager
def unwound_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does; one that is ignored, as by nohup, stays so."""
    if sys.platform == "win32":  # whose loops take no signals
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came = list[signal.Signals]()

    def end(number: signal.Signals) -> None:
        came.append(number)
        if task is not None:
            task.cancel()

    heard = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for each in heard:
        loop.add_signal_handler(each, end, each)
    try:
        yield
    except asyncio.CancelledError:
        if not came:
            raise
        raise click.exceptions.Exit(_OF_SIGNALS + came[0]) from None
    finally:
        for each in heard:
            loop.remove_signal_handler(each)
