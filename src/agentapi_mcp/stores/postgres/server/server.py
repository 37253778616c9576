"""The embedded Postgres as a `Server`: started on first use, and again after a refused connection."""

import asyncio

from typing_extensions import override

from agentapi_mcp.stores.postgres.database import Server
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres, EmbeddedUrls


class EmbeddedServer(Server):
    """One process's use of the shared server, released by `aclose`."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        # One start at a time in this process; between processes there is the start lock.
        self._lock = asyncio.Lock()
        self._urls: EmbeddedUrls | None = None

    async def urls(self) -> EmbeddedUrls:
        """Ensure that the server runs, and return both URLs."""
        async with self._lock:
            if self._urls is None:
                self._urls = await asyncio.to_thread(self._postgres.ensure)
            return self._urls

    @override
    async def url(self) -> str:
        return (await self.urls()).app_url

    @override
    async def recover(self) -> str:
        """Restart the server if needed, and return the application's URL."""
        async with self._lock:
            self._urls = await asyncio.to_thread(self._postgres.ensure)
            return self._urls.app_url

    async def aclose(self) -> None:
        """Release the server; it stops some time after its last user."""
        # In a thread, as every call of the launcher, which blocks on files and locks.
        await asyncio.to_thread(self._postgres.release)
