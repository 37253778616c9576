"""The reaper: one small process per home that stops the server some time after its last user.

It blocks in the kernel until the last shared lock on the users' file is released, so idling costs nothing.
It imports only light modules, since it lives as long as the server.
"""

import os

from agentapi_mcp.base import locks
from agentapi_mcp.stores.postgres.server.processes import stop_server

_STOP_SECONDS = 60.0


def main(arguments: list[str]) -> None:
    """Stop the server of a data directory when unused; the locks are inherited, the last one already held."""
    data, linger, *fds = arguments
    users, start, reaper_lock = map(int, fds)
    locks.acquire(reaper_lock)
    while not _stop_if_unused(data, float(linger), users, start):
        locks.release(users)
        locks.release(start)
    os.close(reaper_lock)  # before `start`: the next starter must see that there is no reaper


def _stop_if_unused(data: str, linger: float, users: int, start: int) -> bool:
    locks.acquire(users)
    # Every user touches the file: one that comes and leaves within the linger time restarts it.
    seen = os.fstat(users).st_mtime_ns
    locks.release(users)
    locks.pause(linger)
    # A new user is either counted here, or waits for the start lock until the server has stopped.
    locks.acquire(start)
    if not locks.try_acquire(users) or os.fstat(users).st_mtime_ns != seen:
        return False
    stop_server(data, _STOP_SECONDS)
    return True
