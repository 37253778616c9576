"""Watch the operator's files, and reload them if they are valid."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of, guarded
from agentapi_mcp.base.errors import ConfigurationError, StoreError, sentences
from agentapi_mcp.core.catalogue.models import CatalogueFile

_POLL_INTERVAL = timedelta(seconds=2)
_log = logging.getLogger(__name__)

Fingerprint = tuple[tuple[Path, tuple[int, int, int] | None], ...]


class CatalogueWatch:
    """Polls the files every two seconds, and on demand.

    Polling is cheap, needs no library, and works on every file system and with every way to replace a file.
    """

    def __init__(
        self, paths: Callable[[], Sequence[Path]], load: Callable[[Sequence[Path]], CatalogueFile], clock: Clock
    ) -> None:
        self._paths = paths
        self._load = load
        self._clock = clock
        self._last_seen: Fingerprint = ()
        self._wake_requested = asyncio.Event()
        self._fault: str | None = None

    def read(self) -> CatalogueFile:
        """Read the files for the first time.

        Raises:
            ConfigurationError: a file is wrong.
        """
        paths = self._paths()
        # Before the load: a change during it is noticed at the next poll.
        self._last_seen = fingerprint(paths)
        return self._load(paths)

    def wake(self) -> None:
        """Reload the files now, even if they have not changed."""
        self._wake_requested.set()

    async def probe(self) -> str | None:
        """Raise the error of the last reload, if it failed.

        Raises:
            ConfigurationError: the files are invalid, and the previous configuration is still in use.
        """
        if self._fault is not None:
            raise ConfigurationError(sentences(self._fault, "What was read before is still in use."))
        return None

    async def run(self, apply: Callable[[CatalogueFile], Awaitable[None]]) -> None:
        """Apply every valid change, forever."""
        while True:
            await first_of(self._wake_requested.wait(), self._clock.sleep(_POLL_INTERVAL))
            await guarded(self._look(apply))

    async def _look(self, apply: Callable[[CatalogueFile], Awaitable[None]]) -> None:
        paths = self._paths()
        current = fingerprint(paths)
        if current == self._last_seen and not self._wake_requested.is_set():
            return
        self._wake_requested.clear()
        if await self._reload(paths, apply):
            self._last_seen = current

    async def _reload(self, paths: Sequence[Path], apply: Callable[[CatalogueFile], Awaitable[None]]) -> bool:
        """Load and apply the files; return False to retry at the next poll."""
        try:
            await apply(self._load(paths))
        except ConfigurationError as exc:
            self._fault = str(exc)
            # Not retried: the same content would be refused again, and logged at each poll.
            _log.warning("configuration_refused", extra={"reason": str(exc)})
            return True
        except StoreError as exc:
            _log.warning("configuration_not_written", extra={"reason": str(exc)})
            return False
        self._fault = None
        _log.warning("configuration_reloaded", extra={"files": ", ".join(map(str, paths))})
        return True


def fingerprint(paths: Sequence[Path]) -> Fingerprint:
    """Return a value that changes with the files, also with the targets of symbolic links."""
    return tuple((path, _stat(path)) for path in paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The inode too: a file replaced by a rename may keep its size and time.
    return status.st_mtime_ns, status.st_size, status.st_ino
