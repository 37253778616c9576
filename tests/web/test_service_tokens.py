"""Client-credentials tokens over HTTP: a program is what the operator's file says of it, and nothing without it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import OAuth
from tests.edges.mcp.test_http import fault, message
from tests.support.connect import call, connect_with, fields_of
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.issuer import IssuerPeer
from tests.web.test_oauth import KEY, OWN, RESOURCE


@dataclass
class ServerSetup:
    """A server, the issuer that it trusts, and its configuration."""

    place: Served
    issuer: IssuerPeer
    services: Services
    config: Path
    client_id: str

    def declare(self, *keys: str, by: str = "client_id") -> None:
        """Declare the program with these keys, or none."""
        lines = ["[[issuers]]", f'issuer = "{self.issuer.issuer}"', 'newcomers = "personal"']
        if keys:
            lines += ["[[issuers.services]]", f'{by} = "{self.client_id}"', *keys]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.services.reload()

    def token(self, **changed: str) -> str:
        """Make a token of the program."""
        now = datetime.now(UTC).timestamp()
        said = {"iss": self.issuer.issuer, "sub": self.client_id, "client_id": self.client_id, "aud": RESOURCE}
        return KEY.sign(said | {"exp": now + 300, "scope": "read chat"} | changed)

    async def ping(self, **changed: str) -> httpx2.Response:
        """Send a ping as the program."""
        token = self.token(**changed)
        headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient(timeout=25) as http:
            return await http.post(self.place.mcp, json=message("ping", {}), headers=headers)

    async def until(self, status: int, **changed: str) -> httpx2.Response:
        """Ask until the changed file has been taken."""
        async with asyncio.timeout(25):
            while (answer := await self.ping(**changed)).status_code != status:
                pass
        return answer


@asynccontextmanager
async def open_setup(home: Path, directory: Path) -> AsyncGenerator[ServerSetup]:
    async with IssuerPeer(KEY) as issuer:
        config = directory / "agentapi.toml"
        config.write_text(f'[[issuers]]\nissuer = "{issuer.issuer}"\nnewcomers = "personal"\n', encoding="utf-8")
        settings = Settings(
            home=home, config=config, resource_url=RESOURCE, postgres_linger_seconds=20, shutdown_grace_seconds=0
        )
        async with open_app(settings, {}) as app:
            services = await app.services_provider.services()
            options = WebOptions(token=OWN, oauth=OAuth(resource=RESOURCE, services_provider=app.services_provider))
            async with serve_app(mcp_application(create_server(app.services_provider, McpOptions()), options)) as place:
                yield ServerSetup(place, issuer, services, config, f"nightly-{new_id().hex}")


async def test_a_program_is_let_in_once_it_is_declared_and_no_longer_than_that(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        refused = await at.ping()
        assert refused.status_code == 403
        assert at.client_id in fault(refused)
        assert "[[issuers.services]]" in fault(refused)
        at.declare(f'organization = "{at.services.principal.org_id}"')
        await at.until(200)
        at.declare()
        await at.until(403)


async def test_a_program_whose_tokens_look_like_a_persons_is_declared_by_their_subject(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        at.declare(f'organization = "{at.services.principal.org_id}"', by="subject")
        await at.until(200)
        assert (await at.ping(client_id="another")).status_code == 200
        at.declare()
        await at.until(403)
        assert "is a program's" in fault(await at.ping(client_id="another"))


@pytest.mark.parametrize("link", ["http-2025", "http-2026"])
async def test_a_program_works_in_its_organisation_and_sees_nothing_of_the_people_there(
    link: str, edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        at.declare(f'organization = "{at.services.principal.org_id}"', 'name = "Nightly"')
        await at.until(200)
        async with connect_with(at.place.base, OWN, link) as person:
            asked = fields_of(await call(person, "chat", agent="guide", message="what is a turn?"))
        async with connect_with(at.place.base, at.token(), link) as program:
            turn = fields_of(await call(program, "chat", agent="guide", message="what is a session?"))
            assert turn["status"] == "completed"
            listed = fields_of(await call(program, "list_sessions"))["sessions"]
            assert [one["session_id"] for one in listed] == [turn["session_id"]]  # type: ignore[attr-defined]  # a list
            assert (await call(program, "get_transcript", session_id=asked["session_id"])).is_error


async def test_a_role_that_is_declared_anew_counts_for_the_next_request(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        organization = f'organization = "{at.services.principal.org_id}"'
        at.declare(organization)
        await at.until(200)
        async with connect_with(at.place.base, at.token(), "http-2026") as program:
            assert not (await call(program, "chat", agent="guide", message="what is a turn?")).is_error
            at.declare(organization, 'role = "viewer"')
            async with asyncio.timeout(25):
                while not (await call(program, "chat", agent="guide", message="what is a turn?")).is_error:
                    pass
            assert not (await call(program, "list_sessions")).is_error


async def test_a_program_whose_organisation_is_not_there_is_the_operators_to_mend(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        at.declare(f'organization = "{new_id()}"')
        assert "not in this database" in fault(await at.until(503))
