"""Which client is here is recorded, once, and never at the cost of a call."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.core.clients.preferences import Clients
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.edges.mcp.callers import Callers
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from tests.support.connect import LINKS, Link, call, connect, open_edge
from tests.support.edges import OpenServices
from tests.support.peers.openai import OpenAIPeer


class RecordedClients(Clients):
    """Clients that remember what is recorded, or fail to."""

    def __init__(self, real: Clients, error: Exception | None = None) -> None:
        self.real, self.error = real, error
        self.recorded: list[tuple[str, Mapping[str, object]]] = []

    @override
    async def record(self, principal: Principal, client: str, state: Mapping[str, object]) -> None:
        """Record it, in truth as well."""
        if self.error is not None:
            raise self.error
        self.recorded.append((client, state))
        await self.real.record(principal, client, state)


@pytest.mark.parametrize("link", LINKS)
async def test_a_client_is_recorded_once_with_its_name_version_and_protocol(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        clients = RecordedClients(edge.services.clients)
        server = create_server(OpenServices(replace(edge.services, clients=clients)), McpOptions())
        async with connect(server, link, name="Some IDE\x00\n") as client:
            await call(client, "list_sessions")
            await call(client, "list_sessions")
        [(name, state)] = clients.recorded
        assert name == "Some IDE"
        protocol = "2025-11-25" if link.endswith("2025") else "2026-07-28"
        assert state == {"client": "Some IDE", "version": "1.0", "protocol": protocol, "toolsets": ["core"]}


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), RuntimeError("broken")])
async def test_a_client_that_cannot_be_recorded_is_served(error: Exception, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        clients = RecordedClients(edge.services.clients, error)
        server = create_server(OpenServices(replace(edge.services, clients=clients)), McpOptions())
        async with connect(server, "stdio-2026") as client:
            assert not (await call(client, "list_sessions")).is_error


async def test_a_full_memory_of_clients_forgets_the_oldest_alone(edge_home: Path) -> None:
    options = McpOptions(max_remembered_clients=2)
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        clients = RecordedClients(edge.services.clients)
        server = create_server(OpenServices(replace(edge.services, clients=clients)), options)
        for name in ("desk", "phone", "watch", "watch", "phone", "desk"):
            async with connect(server, "stdio-2026", name=name) as client:
                await call(client, "list_sessions")
    assert [name for name, _ in clients.recorded] == ["desk", "phone", "watch", "desk"]


async def test_only_stdio_acts_as_the_local_user_without_authentication(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        callers = Callers(OpenServices(edge.services), McpOptions())
        assert (await callers.of_http({})).principal == edge.services.principal
        with pytest.raises(RuntimeError, match="past the authentication"):
            await callers.of_http({"type": "http"})
