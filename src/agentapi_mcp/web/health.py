"""Liveness and readiness probes for load balancers and orchestrators."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.forwarding import FORWARDED, PROXY_PART
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, pass_on
from agentapi_mcp.web.stopping import Stopping

_READY_WITHIN = timedelta(seconds=3)
_WARNINGS_WITHIN = timedelta(seconds=1.5)  # longer than a Redis that hangs is waited for
_FRESH_FOR = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """Whether the server can serve, and the names of its degraded parts."""

    is_ready: bool
    warnings: tuple[str, ...] = ()


class Readiness:
    """Finds out whether the server can serve, at most once a second and once at a time, however often it is asked."""

    def __init__(self, services_provider: ServicesProvider, monotonic: Callable[[], float]) -> None:
        self._services_provider = services_provider
        self._monotonic = monotonic
        self._asking = asyncio.Lock()
        self._report = ReadinessReport(is_ready=False)
        self._asked_at: float | None = None

    async def report(self) -> ReadinessReport:
        """Return what was found within the last second; otherwise find out, or wait for who does so already."""
        # Anybody may probe, without a token and beyond all limits: that must not cost the database anything.
        async with self._asking:
            if self._asked_at is None or self._monotonic() - self._asked_at >= _FRESH_FOR.total_seconds():
                self._report = await self._find_out()
                self._asked_at = self._monotonic()
            return self._report

    async def _find_out(self) -> ReadinessReport:
        try:
            async with asyncio.timeout(_READY_WITHIN.total_seconds()):
                services = await self._services_provider.services()
                is_ready = await services.health.is_ready()
        except (AgentApiError, TimeoutError):
            return ReadinessReport(is_ready=False)
        return ReadinessReport(is_ready, await self._warnings() if is_ready else ())

    async def _warnings(self) -> tuple[str, ...]:
        """Return the names of degraded parts; a probe that takes long must not make the server unready."""
        services = self._services_provider.find()
        return () if services is None else await services.health.warnings(_WARNINGS_WITHIN)


def health_mount(
    services_provider: ServicesProvider, stopping: Stopping, monotonic: Callable[[], float] = time.monotonic
) -> Mount:
    """Serve /healthz, which asks nothing, and /readyz, without authentication and without a check of the host."""
    # A prober has no token and calls the server by its IP address; so the answers hold nothing confidential.
    readiness = Readiness(services_provider, monotonic)

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        if stopping.begun:
            return JSONResponse({"status": "stopping"}, HTTPStatus.SERVICE_UNAVAILABLE)
        found = await readiness.report()
        if not found.is_ready:
            return JSONResponse({"status": "not ready"}, HTTPStatus.SERVICE_UNAVAILABLE)
        warnings = found.warnings
        # Who asks through a proxy learns whether this very request was forwarded by one that is not trusted.
        if request.scope.get(FORWARDED) and PROXY_PART not in warnings:
            warnings = (*warnings, PROXY_PART)
        return JSONResponse({"status": "ok", "warnings": warnings} if warnings else {"status": "ok"})

    app = Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready)], exception_handlers={Exception: pass_on})
    return Mount(
        paths=("/healthz", "/readyz"),
        app=app,
        authentication=AuthenticationMode.OPEN,
        cors=True,
        quiet=True,
    )
