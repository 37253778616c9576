"""The server as an OAuth resource server: who has a token of a trusted issuer is let in, and sees what is theirs."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ResourceTemplateReference

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.ids import SessionId, new_id
from agentapi_mcp.core.identity.principals import Role, TokenScope
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.presentation.uris import transcript_uri
from agentapi_mcp.settings import Settings
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.auth_rate_limit import MOST
from agentapi_mcp.web.oauth import WELL_KNOWN, OAuth
from tests.support.connect import call, connect_with, fields_of, subscribe_resource, text_of
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.issuer import IssuerPeer, SigningKey

RESOURCE = "https://agents.example.com/mcp"
KEY = SigningKey("one")
OWN = "the-operators-own-token-0123"


@dataclass
class ServerSetup:
    """A server and the issuer that it trusts."""

    place: Served
    issuer: IssuerPeer
    services: Services

    def token(self, subject: str, scope: str = "chat read edit", **changed: object) -> str:
        """Make a token."""
        now = datetime.now(UTC).timestamp()
        said = {"iss": self.issuer.issuer, "sub": subject, "aud": RESOURCE, "exp": now + 300, "scope": scope}
        return KEY.sign(said | changed)

    @asynccontextmanager
    async def client(self, token: str, link: str = "http-2026") -> AsyncGenerator[Client]:
        """Connect as whoever has the token."""
        async with connect_with(self.place.base, token, link) as client:
            yield client


@asynccontextmanager
async def open_setup(
    home: Path, directory: Path, newcomers: str = "personal", attempts: Clock | None = None
) -> AsyncGenerator[ServerSetup]:
    """Open both; refused tokens are counted in the time of `attempts`."""
    async with IssuerPeer(KEY) as issuer:
        config = directory / "agentapi.toml"
        config.write_text(f'[[issuers]]\nissuer = "{issuer.issuer}"\nnewcomers = "{newcomers}"\n', encoding="utf-8")
        settings = Settings(
            home=home, config=config, resource_url=RESOURCE, postgres_linger_seconds=20, shutdown_grace_seconds=0
        )
        async with open_app(settings, {}) as app:
            services = await app.services_provider.services()
            oauth = OAuth(resource=RESOURCE, services_provider=app.services_provider)
            options = WebOptions(token=OWN, oauth=oauth, clock=attempts or SystemClock())
            async with serve_app(mcp_application(create_server(app.services_provider, McpOptions()), options)) as place:
                yield ServerSetup(place, issuer, services)


async def test_who_has_no_token_is_led_to_the_sign_in(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient() as http:
        refused = await http.post(at.place.mcp, json={})
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        assert f'resource_metadata="https://agents.example.com{WELL_KNOWN}/mcp"' in challenge
        assert 'scope="read chat edit"' in challenge
        assert "error=" not in challenge
        for path in (f"{WELL_KNOWN}/mcp", WELL_KNOWN):
            said = (await http.get(at.place.base + path)).json()
            assert (said["resource"], said["authorization_servers"]) == (RESOURCE, [at.issuer.issuer])
        wrong = await http.post(at.place.mcp, json={}, headers={"authorization": "Bearer a.b.c"})
        assert (wrong.status_code, 'error="invalid_token"' in wrong.headers["www-authenticate"]) == (401, True)


async def test_who_is_invited_comes_in_and_a_colleague_does_not(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path, newcomers="invited") as at, httpx2.AsyncClient() as http:
        email, members = f"{new_id().hex}@example.com", at.services.memberships
        owner = replace(at.services.principal, org_id=await members.create_organization(at.services.principal, "Acme"))
        await members.invite(owner, email, Role.VIEWER)
        colleague = at.token(f"eve-{new_id().hex}", email=f"x{email}", email_verified=True)
        refused = await http.post(at.place.mcp, json={}, headers={"authorization": f"Bearer {colleague}"})
        assert (refused.status_code, "to let you in" in refused.text) == (403, True)
        async with at.client(at.token(f"bo-{new_id().hex}", email=email, email_verified=True)) as bo:
            assert not (await call(bo, "list_agents")).is_error
            assert "ask an administrator" in text_of(await call(bo, "chat", message="hello"))  # a viewer's
        assert {one.role for one in (await members.list_(owner)).members} == {"owner", "viewer"}


async def test_colleagues_whose_tokens_have_expired_lock_out_nobody(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient() as http:

        async def status(token: str) -> int:
            return (await http.post(at.place.mcp, json={}, headers={"authorization": f"Bearer {token}"})).status_code

        for number in range(MOST + 1):
            assert await status(at.token(f"colleague-{number}", exp=1)) == 401
        async with at.client(at.token(f"ann-{new_id().hex}")) as ann:
            assert not (await call(ann, "list_agents")).is_error
        for number in range(MOST):
            assert await status(f"a.b.{number}") == 401
        assert [await status("a.b.c"), await status(at.token("another", exp=1))] == [429, 401]


async def test_an_issuer_that_does_not_tell_its_keys_sends_nobody_to_the_sign_in(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient() as http:
        at.issuer.mood = "fails"
        for _ in range(MOST + 1):
            refused = await http.post(at.place.mcp, json={}, headers={"authorization": f"Bearer {at.token('ann')}"})
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert "www-authenticate" not in refused.headers
            assert "authorization server" in refused.text


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse-2025", "sse-2026"])
async def test_two_users_see_nothing_of_each_other(link: str, edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        ann, bo = f"ann-{new_id().hex}", f"bo-{new_id().hex}"
        async with at.client(at.token(ann), link) as anns, at.client(at.token(bo), link) as bos:
            turn = fields_of(await call(anns, "chat", agent="guide", message="what is this program?"))
            assert turn["status"] == "completed"
            assert [one["session_id"] for one in sessions(await call(anns, "list_sessions"))] == [turn["session_id"]]
            assert sessions(await call(bos, "list_sessions")) == []
            for tool, arguments in (
                ("get_turn", {"turn_id": turn["turn_id"]}),
                ("cancel_turn", {"turn_id": turn["turn_id"]}),
                ("get_transcript", {"session_id": turn["session_id"]}),
                ("chat", {"session_id": turn["session_id"], "message": "and?"}),
            ):
                refused = await call(bos, tool, **arguments)
                assert refused.is_error, tool
                unknown = await call(
                    bos,
                    tool,
                    **{key: str(new_id()) if key.endswith("_id") else value for key, value in arguments.items()},
                )
                assert (
                    text_of(refused).replace(str(turn["turn_id"]), "X").replace(str(turn["session_id"]), "X")[:40]
                    == text_of(unknown)[:40]
                )
        async with at.client(at.token(ann), link) as again:
            assert len(sessions(await call(again, "list_sessions"))) == 1


def sessions(result: Any) -> list[dict[str, Any]]:  # noqa: ANN401  # the SDK's
    return fields_of(result)["sessions"]  # type: ignore[return-value]  # a list of them


async def test_the_operators_own_token_stands_for_the_machines_user(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, at.client(OWN) as client:
        turn = fields_of(await call(client, "chat", agent="guide", message="hello"))
        assert turn["status"] == "completed"


async def test_nobody_posts_into_another_users_stream(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient(timeout=25) as http:
        ann, bo = (at.token(f"{name}-{new_id().hex}") for name in ("ann", "bo"))
        async with http.stream("GET", at.place.sse, headers={"authorization": f"Bearer {ann}"}) as stream:
            lines = stream.aiter_lines()
            while not (line := await anext(lines)).startswith("data: "):
                pass
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            for token, status in ((bo, 404), (ann, 202)):
                headers = {"authorization": f"Bearer {token}"}
                posted = await http.post(at.place.base + line.removeprefix("data: "), json=ping, headers=headers)
                assert posted.status_code == status


async def test_a_2025_clients_session_is_its_users_alone(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient(timeout=25) as http:
        ann, bo = (at.token(f"{name}-{new_id().hex}") for name in ("ann", "bo"))
        accept = {"accept": "application/json, text/event-stream"}
        client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
        begun = await http.post(at.place.mcp, json=begin, headers=accept | {"authorization": f"Bearer {ann}"})
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        for token, status in ((bo, 404), (ann, 200)):
            headers = accept | session | {"authorization": f"Bearer {token}"}
            assert (await http.post(at.place.mcp, json=listing, headers=headers)).status_code == status


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse-2025"])
async def test_scopes_narrow_what_a_token_may_do(link: str, edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at, at.client(at.token("reader", scope="read"), link) as client:
        assert not (await call(client, "list_sessions")).is_error
        if link.startswith("sse"):
            refused = await call(client, "chat", agent="guide", message="hello")
            assert refused.is_error
            assert "lacks the scope 'chat'" in text_of(refused)
        else:
            with pytest.raises(MCPError, match="lacks the scope 'chat'"):
                await call(client, "chat", agent="guide", message="hello")
        assert not (await call(client, "list_agents")).is_error


async def test_a_token_that_lacks_a_scope_is_asked_for_it_with_those_that_it_has(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient() as http:
        headers = {"authorization": f"Bearer {at.token('reader', scope='read keys openid')}"}
        body: dict[str, object] = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "chat", "arguments": {}},
        }
        refused = await http.post(at.place.mcp, json=body, headers=headers)
        assert refused.status_code == 403
        challenge = refused.headers["www-authenticate"]
        assert 'error="insufficient_scope", scope="chat keys read"' in challenge
        assert f'resource_metadata="https://agents.example.com{WELL_KNOWN}/mcp"' in challenge


ARGUMENTS: dict[str, dict[str, object]] = {
    "chat": {"message": "hi", "agent": "guide"},
    "get_turn": {"turn_id": str(new_id())},
    "cancel_turn": {"turn_id": str(new_id())},
    "get_transcript": {"session_id": str(new_id())},
}


@pytest.mark.parametrize("scope", [*map(str, TokenScope), ""])
async def test_http_asks_for_a_scope_exactly_where_core_does(scope: str, edge_home: Path, tmp_path: Path) -> None:
    transcript, template = transcript_uri(SessionId(new_id())), "agentapi://chat/sessions/{session_id}/transcript"
    async with open_setup(edge_home, tmp_path) as at:
        token = at.token("somebody", scope=f"{scope} openid")
        async with at.client(token, "sse-2025") as by_core, at.client(token, "http-2025") as early:
            for tool in (await by_core.list_tools()).tools:
                arguments = ARGUMENTS.get(tool.name, {})
                asked = [await lacks(partial(call, client, tool.name, **arguments)) for client in (by_core, early)]
                assert asked[0] == asked[1], tool.name
            reference = ResourceTemplateReference(type="ref/resource", uri=template)
            asks: tuple[Callable[[Client], Awaitable[object]], ...] = (
                lambda client: client.list_resources(),
                lambda client: subscribe_resource(client, "agentapi://catalog/agents"),
                lambda client: client.read_resource(transcript),
                lambda client: client.read_resource("agentapi://catalog/agents"),
                lambda client: client.complete(reference, {"name": "session_id", "value": ""}),
                lambda client: client.complete(reference, {"name": "agent", "value": ""}),
            )
            for ask in asks:
                asked = [await lacks(partial(ask, client)) for client in (by_core, early)]
                assert asked[0] == asked[1]


async def lacks(ask: Callable[[], Awaitable[object]]) -> bool:
    """Tell whether the answer is that the token lacks a scope."""
    try:
        said = await ask()
    except MCPError as exc:
        return "lacks the scope" in exc.error.message
    return isinstance(said, CallToolResult) and said.is_error is True and "lacks the scope" in text_of(said)


async def test_who_has_no_account_is_told_and_not_let_in(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path, newcomers="none") as at, httpx2.AsyncClient() as http:
        headers = {"authorization": f"Bearer {at.token('stranger')}"}
        refused = await http.post(at.place.mcp, json={}, headers=headers)
        assert refused.status_code == 403
        assert "no account here" in refused.text
