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

_LOOK_EVERY = timedelta(seconds=2)
_log = logging.getLogger(__name__)

Seen = tuple[tuple[Path, tuple[int, int, int] | None], ...]


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
        self._seen: Seen = ()
        self._told = asyncio.Event()
        self._fault: str | None = None

    def read(self) -> CatalogueFile:
        """Read the files for the first time.

        Raises:
            ConfigurationError: a file is wrong.
        """
        paths = self._paths()
        self._seen = look(paths)
        return self._load(paths)

    def wake(self) -> None:
        """Read the files again now, whether they changed or not."""
        self._told.set()

    async def probe(self) -> str | None:
        """Tell what is wrong with the files as they are now.

        Raises:
            ConfigurationError: they are wrong, and what was read before them is still in use.
        """
        if self._fault is not None:
            raise ConfigurationError(sentences(self._fault, "What was read before is still in use."))
        return None

    async def run(self, take: Callable[[CatalogueFile], Awaitable[None]]) -> None:
        """Hand every good change on, for ever."""
        while True:
            await first_of(self._told.wait(), self._clock.sleep(_LOOK_EVERY))
            paths = self._paths()
            seen = look(paths)
            if seen == self._seen and not self._told.is_set():
                continue
            self._told.clear()
            if await self._take(paths, take):
                self._seen = seen

    async def _take(self, paths: Sequence[Path], take: Callable[[CatalogueFile], Awaitable[None]]) -> bool:
        """Take the files as they are; False when that is to be tried again."""
        try:
            await take(self._load(paths))
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


def look(paths: Sequence[Path]) -> Seen:
    """Describe the files so that any change of theirs shows, also one behind a symbolic link."""
    return tuple((path, _stat(path)) for path in paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
