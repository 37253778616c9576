"""Which process is the server: told by its name and data directory, since a bare number may be anybody's."""

import os
import signal
import time

from agentapi_mcp.stores.postgres.server.locks import pause

_HAS_PROC = os.access("/proc/self/cmdline", os.R_OK)
_STATUS_LINE = 7


class RunningServer:
    """A live postmaster; `status` is its own word: starting, ready, stopping."""

    __slots__ = ("pid", "status")

    def __init__(self, pid: int, status: str) -> None:
        self.pid = pid
        self.status = status


def find_server(data: str) -> RunningServer | None:
    """Find the postmaster of a data directory by its pid file, which counts only if that process is one."""
    lines = _read(f"{data}/postmaster.pid").decode(errors="replace").split("\n")
    if not lines[0].strip().isdecimal():
        return None
    pid = int(lines[0])
    if not _is_postmaster(pid, os.fsencode(data)):
        return None
    return RunningServer(pid, lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else "starting")


def stop_server(data: str, seconds: float) -> None:
    """Stop the server of a data directory: politely, then at once; either way nothing committed is lost."""
    for sign in (signal.SIGINT, signal.SIGQUIT):
        end = time.monotonic() + seconds
        server = find_server(data)
        if server is not None:
            send(server.pid, sign)
        while find_server(data) is not None and time.monotonic() < end:
            pause(0.02)


def send(pid: int, sign: signal.Signals) -> None:
    """Send a signal to a process that may be gone by now."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def _is_postmaster(pid: int, data: bytes) -> bool:
    # A zombie has no command line, so it does not count either; backends rename themselves.
    if not _HAS_PROC:
        return _is_postmaster_by_ps(pid, data)
    words = _read(f"/proc/{pid}/cmdline").split(b"\0")
    return words[0].endswith(b"/postgres") and data in words


def _is_postmaster_by_ps(pid: int, data: bytes) -> bool:
    # Not subprocess, which costs the keeper 1.5 MB; the number is the only part that varies.
    command = f"exec ps -ww -o args= -p {pid:d} </dev/null 2>/dev/null"
    with os.popen(command) as answer:  # noqa: S605  # pyright: ignore[reportDeprecated]  # see above
        line = os.fsencode(answer.read()).strip()
    return b"/postgres -D " + data + b" " in line + b" "


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)
