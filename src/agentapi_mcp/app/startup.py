"""Start-up: opens the services in the background, while edges already accept requests."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from typing_extensions import override

from agentapi_mcp.app.services import AppOptions, open_services
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.errors import AgentApiError, StoreUnavailableError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.core.identity.shares import Shares
from agentapi_mcp.core.services import Services, ServicesProvider
from agentapi_mcp.settings import Settings, capacities_of

_log = logging.getLogger(__name__)


class Startup(ServicesProvider):
    """Opens the services in the background; a failed attempt raises for its waiters, and the next request retries."""

    def __init__(self, open_services: Callable[[], AbstractAsyncContextManager[Services]], timeout: timedelta) -> None:
        self._open_services = open_services
        self._timeout = timeout
        self._attempt: asyncio.Future[Services] = asyncio.get_running_loop().create_future()
        self._wake = asyncio.Event()
        self._closing = False

    @override
    async def services(self) -> Services:
        """Wait for the services, up to the timeout; after a failed attempt, start another."""
        services = self.find()
        if services is not None:
            return services
        if self._attempt.done():
            self._attempt = asyncio.get_running_loop().create_future()
            self._wake.set()
        try:
            # Shielded: a caller that times out or is cancelled must not cancel the attempt that others wait for.
            async with asyncio.timeout(self._timeout.total_seconds()):
                return await asyncio.shield(self._attempt)
        except TimeoutError:
            raise StoreUnavailableError(
                "The database is not up yet; the first start makes it, which takes longer on a busy machine. Try again "
                "in a moment. `agentapi-mcp migrate --status` tells more."
            ) from None

    @override
    def find(self) -> Services | None:
        is_open = self._attempt.done() and self._attempt.exception() is None
        return self._attempt.result() if is_open else None

    async def run(self) -> None:
        """Keep the services open until `close`."""
        while not self._closing:
            # Before the attempt: a request during it must be able to wake `run`.
            self._wake.clear()
            try:
                async with self._open_services() as services:
                    self._attempt.set_result(services)
                    await self._wake.wait()
            except Exception as exc:  # noqa: BLE001  # the outermost point; waiters receive the error
                self._fail(_reason(exc))
            if not self._closing:
                await self._wake.wait()

    def reload(self) -> None:
        """Reload the configuration, if the services are open."""
        services = self.find()
        if services is not None:
            services.reload()

    def close(self) -> None:
        """End `run`."""
        self._closing = True
        self._wake.set()

    def _fail(self, error: AgentApiError) -> None:
        # The services had been open: what failed is their closing, or a task behind them.
        if self._attempt.done():
            self._attempt = asyncio.get_running_loop().create_future()
        self._attempt.set_exception(error)
        self._attempt.exception()  # marked as retrieved: asyncio warns of an exception that no caller awaits


@dataclass(frozen=True, slots=True)
class App:
    """A running program, as edges use it."""

    settings: Settings
    services_provider: Startup
    shares: Shares


@asynccontextmanager
async def open_app(
    settings: Settings, environ: Mapping[str, str], *, clock: Clock | None = None, options: AppOptions | None = None
) -> AsyncGenerator[App]:
    """Open the program without waiting for its stores, which open in the background; close them with the context."""
    time, chosen = clock or SystemClock(), options or AppOptions()
    shares = Shares(time, capacities_of(settings) | dict(chosen.capacities))
    services_provider = Startup(
        lambda: open_services(settings, environ, time, shares, chosen),
        timedelta(seconds=settings.start_timeout_seconds),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(services_provider.run())
        try:
            yield App(settings, services_provider, shares)
        finally:
            services_provider.close()


def _reason(error: Exception) -> AgentApiError:
    reason = innermost(error)
    if isinstance(reason, AgentApiError):
        return reason
    _log.error("start_failed", exc_info=error)
    return StoreUnavailableError("The server could not start; its log on stderr says why.")
