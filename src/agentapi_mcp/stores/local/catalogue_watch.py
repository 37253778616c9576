"""Notices when the operator's files change, and takes the new ones if they are good."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import ConfigurationError, StoreError, sentences
from agentapi_mcp.core.catalogue.models import CatalogueFile

_POLL_INTERVAL = timedelta(seconds=2)
_log = logging.getLogger(__name__)

Fingerprint = tuple[tuple[Path, tuple[int, int, int] | None], ...]


class CatalogueWatch:
    """Looks at the files every two seconds, and at once when told to.

    Looking is cheap, works on every file system and through every kind of replacement, and needs no library.
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
        self._last_seen = fingerprint(paths)
        return self._load(paths)

    def wake(self) -> None:
        """Read the files again now, whether they changed or not."""
        self._wake_requested.set()

    async def probe(self) -> str | None:
        """Tell what is wrong with the files as they are now.

        Raises:
            ConfigurationError: they are wrong, and what was read before them is still in use.
        """
        if self._fault is not None:
            raise ConfigurationError(sentences(self._fault, "What was read before is still in use."))
        return None

    async def run(self, apply: Callable[[CatalogueFile], Awaitable[None]]) -> None:
        """Hand every good change on, for ever."""
        while True:
            await first_of(self._wake_requested.wait(), self._clock.sleep(_POLL_INTERVAL))
            paths = self._paths()
            current = fingerprint(paths)
            if current == self._last_seen and not self._wake_requested.is_set():
                continue
            self._wake_requested.clear()
            if await self._reload(paths, apply):
                self._last_seen = current

    async def _reload(self, paths: Sequence[Path], apply: Callable[[CatalogueFile], Awaitable[None]]) -> bool:
        """Take the files as they are; False when that is to be tried again."""
        try:
            await apply(self._load(paths))
        except ConfigurationError as exc:
            self._fault = str(exc)
            _log.warning("configuration_refused", extra={"reason": str(exc)})
            return True
        except StoreError as exc:
            _log.warning("configuration_not_written", extra={"reason": str(exc)})
            return False
        self._fault = None
        _log.warning("configuration_reloaded", extra={"files": ", ".join(map(str, paths))})
        return True


def fingerprint(paths: Sequence[Path]) -> Fingerprint:
    """Describe the files so that any change of theirs shows, also one behind a symbolic link."""
    return tuple((path, _stat(path)) for path in paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
