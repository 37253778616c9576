"""Locks on files: the kernel frees them when their last holder is gone, also after kill -9."""

import os
import select
import sys
import time

# On Windows this can be imported, and nothing of it is called.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    import fcntl


def pause(seconds: float) -> None:
    """Wait in a thread or process of our own, where there is no injected clock and no event loop."""
    select.select([], [], [], seconds)


def open_lock(path: str) -> int:
    """Open a lock file, making it where needed; as root it is given to the owner of its directory."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        place = os.stat(os.path.dirname(path))  # noqa: PTH116, PTH120  # the keeper does without pathlib: 1 MB
        os.fchown(fd, place.st_uid, place.st_gid)
    return fd


def acquire(fd: int) -> None:
    """Take a lock alone, however long it lasts."""
    fcntl.flock(fd, fcntl.LOCK_EX)


def acquire_shared(fd: int) -> None:
    """Take a lock together with others."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def release(fd: int) -> None:
    """Give a lock back and keep its file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def try_acquire(fd: int) -> bool:
    """Take a lock alone, if that is possible now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def acquire_within(fd: int, seconds: float) -> bool:
    """Take a lock alone, if that is possible within some seconds."""
    end = time.monotonic() + seconds
    while not try_acquire(fd):
        if time.monotonic() > end:
            return False
        pause(0.01)
    return True
