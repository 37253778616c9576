"""File locks; the kernel releases them when the last holder exits, even after kill -9."""

import os
import select
import sys
import time

# Windows only imports this module.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    import fcntl


def pause(seconds: float) -> None:
    """Sleep, in a thread or process without an injected clock or event loop."""
    select.select([], [], [], seconds)


def open_lock(path: str) -> int:
    """Open a lock file, creating it if needed; as root it gets the owner of its directory."""
    # O_CLOEXEC: a child shares a lock only if it is passed on explicitly. O_NOFOLLOW: the owner of the directory could
    # otherwise have root open, and give away, another file.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:
        place = os.stat(os.path.dirname(path))  # noqa: PTH116, PTH120  # the reaper avoids pathlib: 1 MB
        os.fchown(fd, place.st_uid, place.st_gid)
    return fd


def acquire(fd: int) -> None:
    """Acquire an exclusive lock, waiting without limit."""
    fcntl.flock(fd, fcntl.LOCK_EX)


def acquire_shared(fd: int) -> None:
    """Acquire a shared lock."""
    # flock, not lockf: it belongs to the open file, so that children inherit it and closing another descriptor of the
    # file does not release it.
    fcntl.flock(fd, fcntl.LOCK_SH)


def release(fd: int) -> None:
    """Release a lock and keep its file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def try_acquire(fd: int) -> bool:
    """Acquire an exclusive lock without waiting; return False if it is held."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def acquire_within(fd: int, seconds: float) -> bool:
    """Acquire an exclusive lock; return False if it is still held after `seconds`."""
    end = time.monotonic() + seconds
    while not try_acquire(fd):
        if time.monotonic() > end:
            return False
        pause(0.01)
    return True
