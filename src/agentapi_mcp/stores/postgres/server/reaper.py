"""The keeper: one small process for each home, which stops the server some time after its last user.

It sleeps in the kernel until the last shared lock on the users' file is gone, so it costs nothing meanwhile.
Only light modules are imported here: this process lives as long as the server does.
"""

import os

from agentapi_mcp.stores.postgres.server import locks
from agentapi_mcp.stores.postgres.server.processes import stop_server

_STOP_SECONDS = 60.0


def main(arguments: list[str]) -> None:
    """Keep the server of a data directory; the locks come as open files, the keeper's own already taken."""
    data, linger, users, start, reaper_lock = (
        arguments[0],
        float(arguments[1]),
        int(arguments[2]),
        int(arguments[3]),
        int(arguments[4]),
    )
    locks.acquire(reaper_lock)
    while not _stop_if_unused(data, linger, users, start):
        locks.release(users)
        locks.release(start)
    os.close(reaper_lock)  # before `start`: whoever starts next must see that nobody keeps


def _stop_if_unused(data: str, linger: float, users: int, start: int) -> bool:
    locks.acquire(users)
    seen = os.fstat(users).st_mtime_ns
    locks.release(users)
    locks.pause(linger)
    # A newcomer is either counted now or waits at the start lock until the server has stopped.
    locks.acquire(start)
    if not locks.try_acquire(users) or os.fstat(users).st_mtime_ns != seen:
        return False
    stop_server(data, _STOP_SECONDS)
    return True
