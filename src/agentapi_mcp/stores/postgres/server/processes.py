"""Identify the server's process by name and data directory, since a bare pid may have been reused."""

import os
import signal
import time

from agentapi_mcp.base.locks import pause

_HAS_PROC = os.access("/proc/self/cmdline", os.R_OK)
# The eighth line of postmaster.pid has the status.
_STATUS_LINE = 7


class RunningServer:
    """A live postmaster; `status` is as in its pid file: starting, ready, stopping."""

    __slots__ = ("pid", "status")

    def __init__(self, pid: int, status: str) -> None:
        self.pid = pid
        self.status = status


def find_server(data: str) -> RunningServer | None:
    """Find the postmaster of a data directory by its pid file; None if that process is not a postmaster."""
    lines = _read(f"{data}/postmaster.pid").decode(errors="replace").split("\n")
    if not lines[0].strip().isdecimal():
        return None
    pid = int(lines[0])
    if not _is_postmaster(pid, os.fsencode(data)):
        return None
    return RunningServer(pid, lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else "starting")


def stop_server(data: str, seconds: float) -> None:
    """Stop the server of a data directory: fast shutdown first, then immediate; committed data is safe."""
    for sign in (signal.SIGINT, signal.SIGQUIT):
        end = time.monotonic() + seconds
        server = find_server(data)
        if server is not None:
            send(server.pid, sign)
        while find_server(data) is not None and time.monotonic() < end:
            pause(0.02)


def send(pid: int, sign: signal.Signals) -> None:
    """Send a signal; ignore a process that has exited."""
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return


def _is_postmaster(pid: int, data: bytes) -> bool:
    # A zombie has no command line, so it does not count either; backends rename themselves.
    if not _HAS_PROC:
        return _is_postmaster_by_ps(pid, data)
    arguments = _read(f"/proc/{pid}/cmdline").split(b"\0")
    return arguments[0].endswith(b"/postgres") and data in arguments


def _is_postmaster_by_ps(pid: int, data: bytes) -> bool:
    # Not subprocess, which costs the reaper 1.5 MB; the pid is the only variable part.
    command = f"exec ps -ww -o args= -p {pid:d} </dev/null 2>/dev/null"
    with os.popen(command) as answer:  # noqa: S605  # pyright: ignore[reportDeprecated]  # see above
        line = os.fsencode(answer.read()).strip()
    return b"/postgres -D " + data + b" " in line + b" "


def _read(path: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO in place of the file would block.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)
