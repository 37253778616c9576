"""Liveness and readiness probes for load balancers and orchestrators."""

import asyncio
from datetime import timedelta
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, pass_on
from agentapi_mcp.web.stopping import Stopping

_READY_WITHIN = timedelta(seconds=3)
_WARNINGS_WITHIN = timedelta(seconds=1)


def health_mount(services_provider: ServicesProvider, stopping: Stopping) -> Mount:
    """Serve /healthz and /readyz, without authentication and without a check of the host."""
    # A prober has no token and calls the server by its IP address; so the answers hold nothing confidential.

    async def alive(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_request: Request) -> Response:
        fault = "stopping" if stopping.begun else await _fault(services_provider)
        if fault is not None:
            return JSONResponse({"status": fault}, HTTPStatus.SERVICE_UNAVAILABLE)
        warnings = await _warnings(services_provider)
        return JSONResponse({"status": "ok", "warnings": warnings} if warnings else {"status": "ok"})

    app = Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready)], exception_handlers={Exception: pass_on})
    return Mount(
        paths=("/healthz", "/readyz"),
        app=app,
        authentication=AuthenticationMode.OPEN,
        cors=True,
        quiet=True,
    )


async def _warnings(services_provider: ServicesProvider) -> tuple[str, ...]:
    """Return the names of degraded parts; a probe that takes long must not make the server unready."""
    services = services_provider.find()
    if services is None:
        return ()
    try:
        async with asyncio.timeout(_WARNINGS_WITHIN.total_seconds()):
            return await services.health.warnings()
    except TimeoutError:
        return ()


async def _fault(services_provider: ServicesProvider) -> str | None:
    try:
        async with asyncio.timeout(_READY_WITHIN.total_seconds()):
            services = await services_provider.services()
            return None if await services.health.is_ready() else "not ready"
    except (AgentApiError, TimeoutError):
        return "not ready"
