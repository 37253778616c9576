"""The embedded Postgres as the pool sees it: brought up on first use, and again after any refused connection."""

import asyncio

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres, EmbeddedUrls


class EmbeddedServer:
    """One process's use of the shared server; its lease is given back by `aclose`."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._lock = asyncio.Lock()
        self._urls: EmbeddedUrls | None = None

    async def urls(self) -> EmbeddedUrls:
        """Return both addresses, of a server that is up."""
        async with self._lock:
            if self._urls is None:
                self._urls = await asyncio.to_thread(self._postgres.ensure)
            return self._urls

    async def url(self) -> str:
        """Return the application's address."""
        return (await self.urls()).app_url

    async def recover(self) -> str:
        """Bring the server back, and return the application's address."""
        async with self._lock:
            self._urls = await asyncio.to_thread(self._postgres.ensure)
            return self._urls.app_url

    async def aclose(self) -> None:
        """Give the lease back; the server stops some time after its last user."""
        await asyncio.to_thread(self._postgres.release)
