"""Locks by which the processes of one home know which of them have died."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.base import locks
from agentapi_mcp.core.conversations.ports import OwnerLocks

_OLD = timedelta(days=1)


class HomeOwnerLocks(OwnerLocks):
    """A lock file for each owner of turns; the kernel releases its lock when the process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self, owner: UUID) -> Generator[None]:
        """Hold the lock of an owner that lives in this process."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._remove_old()
        path = self._path(owner)
        lock = locks.open_lock(str(path))
        try:
            locks.acquire(lock)
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(lock)

    @override
    def died(self, owners: frozenset[UUID]) -> frozenset[UUID]:
        return frozenset(owner for owner in owners if self._has_died(self._path(owner)))

    def _remove_old(self) -> None:
        """Remove what killed processes left; their turns have been settled long since."""
        for path in self._folder.glob("*.lock"):
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > _OLD.total_seconds() and self._has_died(path):
                    path.unlink()

    def _path(self, owner: UUID) -> Path:
        return self._folder / f"{owner}.lock"

    def _has_died(self, path: Path) -> bool:
        # No file says nothing: the owner may be on another machine, or have ended regularly.
        with suppress(OSError):
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                return locks.try_acquire(lock)
            finally:
                os.close(lock)
        return False
