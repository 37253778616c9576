"""A proxy that forwards requests without being trusted is seen by whoever asks how the server is."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

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
# One of each kind: the standard one, what proxies and tunnels send of their own accord, and in an odd spelling.
SENT_BY_PROXIES = (
    *("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded", "X-Forwarded-Port", "X_Forwarded_For", "X-Real-IP"),
    *("X-Client-IP", "X-Cluster-Client-IP", "X-Original-Forwarded-For", "X-Original-Host", "True-Client-IP"),
    *("X-Envoy-External-Address", "X-Azure-ClientIP", "CF-Connecting-IP", "CF-Ray", "Fastly-Client-IP"),
    *("Fly-Client-IP", "Tailscale-User-Login"),
)


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


@pytest.mark.parametrize(
    ("headers", "serves_forwarded", "status"),
    [({}, False, 200), (FORWARDED, False, 403), ({"via": "1.1 squid"}, False, 403), (FORWARDED, True, 200)],
)
async def test_what_a_proxy_forwards_is_refused_where_no_token_is_asked(
    headers: Mapping[str, str],
    serves_forwarded: bool,  # noqa: FBT001  # a parameter
    status: int,
    edge_home: Path,
) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        options = WebOptions(serves_forwarded=serves_forwarded)
        edge = mcp_application(create_server(app.services_provider, McpOptions()), options)
        async with serve_app(edge) as place, httpx2.AsyncClient(base_url=place.base, headers=dict(headers)) as http:
            answer = await http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert answer.status_code == status, answer.text
            assert (await http.get("/healthz")).status_code == 200


async def test_readiness_judges_the_request_itself_where_anybody_could_have_sent_the_others(edge_home: Path) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        await app.services_provider.services()
        edge = mcp_application(create_server(app.services_provider, McpOptions()), WebOptions(needs_token=True))
        async with serve_app(edge) as place, httpx2.AsyncClient(base_url=place.base) as http:
            assert (await http.get("/readyz", headers=FORWARDED)).json()["warnings"] == ["proxy"]
            assert "proxy" not in (await http.get("/readyz")).json().get("warnings", ())


PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})


async def status_of(base: str, version: str, *headers: str, request: str = "POST /mcp") -> int:
    """Send a ping in this version of HTTP, and return the status."""
    parts = urlsplit(base)
    lines = [f"{request} HTTP/{version}", f"host: {parts.netloc}", "connection: close", *headers]
    lines += ["content-type: application/json", "accept: application/json", f"content-length: {len(PING)}", "", PING]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join(lines).encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("serves_forwarded", [False, True])
async def test_without_tokens_what_a_proxy_forwards_is_refused(edge_home: Path, *, serves_forwarded: bool) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        await app.services_provider.services()
        options = WebOptions(serves_forwarded=serves_forwarded)
        edge = mcp_application(create_server(app.services_provider, McpOptions()), options)
        async with serve_app(edge) as place:
            assert await status_of(place.base, "1.1") == 200
            # As nginx asks if its block has a proxy_pass and nothing else.
            assert await status_of(place.base, "1.0") == (200 if serves_forwarded else 403)
            for name in SENT_BY_PROXIES:
                answer = await status_of(place.base, "1.1", f"{name}: 203.0.113.9")
                assert answer == (200 if serves_forwarded else 403), name
            for name in ("X-Request-Id", "Traceparent", "X-Forward", "Origin-Agent-Cluster"):
                assert await status_of(place.base, "1.1", f"{name}: 203.0.113.9") == 200, name


async def test_a_token_and_a_probe_may_come_by_http_1_0(edge_home: Path) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        await app.services_provider.services()
        edge = mcp_application(create_server(app.services_provider, McpOptions()), WebOptions(token="s" * 32))
        async with serve_app(edge) as place:
            assert await status_of(place.base, "1.0", f"authorization: Bearer {'s' * 32}") == 200
            assert await status_of(place.base, "1.0") == 401
            assert await status_of(place.base, "1.0", request="GET /healthz") == 200


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
