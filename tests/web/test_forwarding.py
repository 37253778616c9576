"""A proxy that forwards requests without being trusted is seen by whoever asks how the server is."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.forwarding import UnknownProxies
from tests.support.clocks import ManualClock
from tests.support.edges import mcp_application, serve_app

FORWARDED = {"x-forwarded-for": "203.0.113.9"}


@pytest.mark.parametrize(
    ("trusted", "headers", "is_unknown"),
    [((), {}, False), ((), FORWARDED, True), ((), {"via": "1.1 squid"}, True), (("127.0.0.1",), FORWARDED, False)],
)
async def test_readiness_and_health_say_so_and_the_server_stays_ready(
    trusted: tuple[str, ...],
    headers: Mapping[str, str],
    is_unknown: bool,  # noqa: FBT001  # a parameter
    edge_home: Path,
) -> None:
    proxies = UnknownProxies()
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}, options=AppOptions(parts=[proxies.part()])) as app:
        services = await app.services_provider.services()
        options = WebOptions(needs_token=True, trusted_proxies=trusted, unknown_proxies=proxies)
        edge = mcp_application(create_server(app.services_provider, McpOptions()), options)
        async with serve_app(edge) as place, httpx2.AsyncClient(base_url=place.base) as http:
            assert (await http.post("/mcp", headers=headers)).status_code == 401
            for asked in ({}, dict(headers)):
                answer = await http.get("/readyz", headers=asked)
                assert answer.status_code == 200
                assert ("proxy" in answer.json().get("warnings", ())) is is_unknown
        parts = {part.name: part for part in (await services.health.report(services.principal)).parts}
    assert (parts["proxy"].status is HealthStatus.DEGRADED) is is_unknown
    assert ("AGENTAPI_TRUSTED_PROXIES" in parts["proxy"].detail) is is_unknown
    assert "127.0.0.1" not in parts["proxy"].detail  # all members see it


async def test_readiness_judges_the_request_itself_where_anybody_could_have_sent_the_others(edge_home: Path) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        await app.services_provider.services()
        edge = mcp_application(create_server(app.services_provider, McpOptions()), WebOptions(needs_token=True))
        async with serve_app(edge) as place, httpx2.AsyncClient(base_url=place.base) as http:
            assert (await http.get("/readyz", headers=FORWARDED)).json()["warnings"] == ["proxy"]
            assert "proxy" not in (await http.get("/readyz")).json().get("warnings", ())


@pytest.mark.parametrize(
    ("address", "is_told"),
    [("127.0.0.1", True), ("10.1.2.3", True), ("fd00::1", True), ("no address", True), ("8.8.8.8", False)],
)
async def test_nobody_on_the_internet_makes_the_server_look_degraded(address: str, *, is_told: bool) -> None:
    proxies = UnknownProxies()
    proxies.note(address)
    assert (await proxies.remark() is not None) is is_told


async def test_one_that_was_seen_long_ago_counts_no_more() -> None:
    clock = ManualClock()
    proxies = UnknownProxies(clock)
    proxies.note("127.0.0.1")
    assert await proxies.remark() is not None
    clock.advance(timedelta(minutes=11))
    assert await proxies.remark() is None
