"""Which client is here is recorded, once, and never at the cost of a call."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agentapi_mcp.core.errors import StoreUnavailableError
from agentapi_mcp.core.identity import OrgId, Principal, UserId
from agentapi_mcp.core.records.identities import Membership
from agentapi_mcp.core.store_ports import ProfileStore
from agentapi_mcp.mcp.options import McpOptions
from agentapi_mcp.mcp.server import create_server
from tests.support.connect import LINKS, Link, call, connect, open_edge
from tests.support.edges import OpenGate
from tests.support.peers.openai import OpenAIPeer


@dataclass
class Profiles:
    """Profiles that remember what is recorded, or fail to."""

    real: ProfileStore
    error: Exception | None = None
    recorded: list[tuple[str, Mapping[str, object]]] = field(default_factory=list[tuple[str, Mapping[str, object]]])

    async def local_principal(self) -> Principal:
        """Ask the real one."""
        return await self.real.local_principal()

    async def find_membership(self, user_id: UserId, org_id: OrgId) -> Membership | None:
        """Ask the real one."""
        return await self.real.find_membership(user_id, org_id)

    async def record_client(self, principal: Principal, session_id: str, state: Mapping[str, object]) -> None:
        """Record it, in truth as well."""
        if self.error is not None:
            raise self.error
        self.recorded.append((session_id, state))
        await self.real.record_client(principal, session_id, state)


@pytest.mark.parametrize("link", [link for link in LINKS if link != "http-2025"])
async def test_a_client_is_recorded_once_with_its_name_version_and_protocol(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        profiles = Profiles(edge.services.profiles)
        server = create_server(OpenGate(replace(edge.services, profiles=profiles)), McpOptions())
        async with connect(server, link, name="Some IDE\x00\n") as client:
            await call(client, "list_sessions")
            await call(client, "list_sessions")
        [(session_id, state)] = profiles.recorded
        assert session_id == f"{edge.services.principal.user_id}/Some IDE"
        protocol = "2025-11-25" if link.endswith("2025") else "2026-07-28"
        assert state == {"client": "Some IDE", "version": "1.0", "protocol": protocol, "toolsets": ["core"]}


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), RuntimeError("broken")])
async def test_a_client_that_cannot_be_recorded_is_served(error: Exception, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        profiles = Profiles(edge.services.profiles, error)
        server = create_server(OpenGate(replace(edge.services, profiles=profiles)), McpOptions())
        async with connect(server, "stdio-2026") as client:
            assert not (await call(client, "list_sessions")).is_error
