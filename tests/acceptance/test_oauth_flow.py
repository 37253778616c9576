"""A stranger's way in: the SDK's own client signs in at a real authorization server, and chats."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import jwt
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.exceptions import MCPError
from pydantic import AnyUrl

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.auth.keys import FRESH_FOR
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import OAuth
from tests.acceptance.test_processes import environ
from tests.acceptance.test_serve import serving
from tests.support.clocks import LaterClock
from tests.support.connect import call, fields_of, text_of
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.oidc_provider import REDIRECT, Browser, OidcProvider, oidc_provider

pytestmark = pytest.mark.acceptance
PING: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
CHAT = PING | {"method": "tools/call"}
ERAS = ["legacy", "auto"]


@dataclass
class Wallet:
    """What a client keeps of its registration and its tokens."""

    tokens: list[OAuthToken] = field(default_factory=list[OAuthToken])
    registration: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """Give the newest."""
        return self.tokens[-1] if self.tokens else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep them beside the older."""
        self.tokens.append(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Give the registration."""
        return self.registration

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep the registration."""
        self.registration = client_info


@dataclass
class Person:
    """Somebody with a browser and an MCP client, which knows nothing but the server's address."""

    browser: Browser = field(default_factory=lambda: Browser(f"somebody-{new_id().hex}"))
    wallet: Wallet = field(default_factory=Wallet)

    @property
    def sign_ins(self) -> int:
        """How often they were asked to sign in."""
        return len(self.browser.asked)

    @asynccontextmanager
    async def client(self, url: str, mode: str = "auto") -> AsyncGenerator[Client]:
        """Connect."""
        metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(REDIRECT)], client_name="a stranger's client")
        auth = OAuthClientProvider(url, metadata, self.wallet, self.browser.open, self.browser.answer)
        target: Any = None
        async with httpx2.AsyncClient(auth=auth, timeout=20) as http:
            target = streamable_http_client(url, http_client=http)
            async with Client(target, mode=mode, cache=None) as client:
                yield client


def declare(config: Path, provider: OidcProvider, also: str = "") -> None:
    """Write a configuration that trusts the provider; who comes for the first time gets an account."""
    said = f'[[issuers]]\nissuer = "{provider.issuer}"\nnewcomers = "personal"\n{also}'
    config.write_text(said, encoding="utf-8")


@asynccontextmanager
async def server(
    home: Path, config: Path, clock: Clock | None = None, path: str = "/mcp", named: str | None = None
) -> AsyncGenerator[str]:
    """Serve to who is let in by the configuration, and give the server's address.

    `named` is what it says of its path to clients, where that is another.
    """
    port = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{port.getsockname()[1]}"
    resource = base + (path if named is None else named)
    settings = Settings(
        home=home, config=config, resource_url=resource, postgres_linger_seconds=20, shutdown_grace_seconds=0
    )
    async with open_app(settings, {}, clock=clock) as app:
        await app.services_provider.services()
        options = WebOptions(oauth=OAuth(resource=resource, services_provider=app.services_provider))
        async with serve_app(
            mcp_application(
                create_server(app.services_provider, McpOptions(toolsets=frozenset(toolset_names()))), options
            ),
            port,
        ):
            yield base + path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "agentapi.toml"


async def present(url: str, token: str, asking: dict[str, object] = PING) -> httpx2.Response:
    """Ask with a token as it is, as a client does that cannot get another."""
    async with httpx2.AsyncClient(timeout=20) as http:
        return await http.post(url, json=asking, headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize("mode", ERAS)
async def test_a_stranger_is_led_through_the_sign_in_and_chats_and_a_second_one_sees_nothing_of_it(
    mode: str, edge_home: Path, config: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with oidc_provider() as provider, AsyncExitStack() as stack:
        declare(config, provider)
        url = f"http://127.0.0.1:{port}/mcp"
        env = environ(edge_home) | {"AGENTAPI_CONFIG": str(config), "AGENTAPI_RESOURCE_URL": url}
        process = await stack.enter_async_context(serving(env, "--port", str(port)))
        one, two = Person(), Person()
        async with one.client(url, mode) as client:
            assert "chat" in {tool.name for tool in (await client.list_tools()).tools}
            turn = fields_of(await call(client, "chat", agent="guide", message="what is this program?"))
            assert turn["status"] == "completed"
            transcript = str(turn["transcript_uri"])
            assert "what is this program?" in str(await client.read_resource(transcript))
        asked = one.browser.asked[0]
        assert (asked["resource"], asked["code_challenge_method"], one.sign_ins) == (url, "S256", 1)
        assert set(asked["scope"].split()) == {"read", "chat", "edit", "offline_access"}
        claims = jwt.decode(one.wallet.tokens[0].access_token, options={"verify_signature": False})
        assert (claims["aud"], claims["sub"]) == (url, one.browser.subject)
        async with two.client(url, mode) as client:
            await see_nothing(client, turn)
        async with one.client(url, mode) as client:
            sessions = fields_of(await call(client, "list_sessions"))["sessions"]
        assert [session["session_id"] for session in sessions] == [turn["session_id"]]  # type: ignore[index, union-attr]  # a list of them
        assert (one.sign_ins, len(one.wallet.tokens)) == (1, 1)
        assert await process.stop() == 0
        log = "".join(process.stderr)
        for token in (*one.wallet.tokens, *two.wallet.tokens):
            assert token.access_token not in log
        assert one.browser.subject not in log


async def see_nothing(client: Client, turn: dict[str, object]) -> None:
    """Look for somebody else's turn wherever one can."""
    transcript = str(turn["transcript_uri"])
    assert fields_of(await call(client, "list_sessions"))["sessions"] == []
    assert transcript not in {resource.uri for resource in (await client.list_resources()).resources}
    with pytest.raises(MCPError, match=r"[Nn]o such"):
        await client.read_resource(transcript)
    for tool, arguments in (
        ("get_turn", {"turn_id": turn["turn_id"]}),
        ("cancel_turn", {"turn_id": turn["turn_id"]}),
        ("get_transcript", {"session_id": turn["session_id"]}),
        ("chat", {"session_id": turn["session_id"], "message": "and?"}),
    ):
        answer = await call(client, tool, **arguments)
        assert answer.is_error, tool
        assert "no such" in text_of(answer).lower(), tool


@pytest.mark.parametrize("mode", ERAS)
async def test_an_expired_token_is_refreshed_without_a_new_sign_in(mode: str, edge_home: Path, config: Path) -> None:
    clock = LaterClock()
    async with oidc_provider() as provider:
        declare(config, provider)
        await provider.tell(lifetimes=[0])  # over at once for the client; the server has half a minute of grace
        async with server(edge_home, config, clock) as url:
            person = Person()
            async with person.client(url, mode) as client:
                assert not (await call(client, "list_sessions")).is_error
            first, second = person.wallet.tokens
            assert (person.sign_ins, first.refresh_token == second.refresh_token) == (1, False)
            clock.later = timedelta(hours=1, minutes=1)
            answer = await present(url, second.access_token)
            assert (answer.status_code, "has expired" in answer.text) == (401, True)
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_that_was_granted_too_little_asks_for_more_when_it_needs_it(
    mode: str, edge_home: Path, config: Path
) -> None:
    async with oidc_provider() as provider:
        declare(config, provider)
        async with server(edge_home, config) as url:
            person = Person(Browser(f"somebody-{new_id().hex}", scope="read"))
            async with person.client(url, mode) as client:
                assert not (await call(client, "list_sessions")).is_error
                asking = CHAT | {"params": {"name": "chat", "arguments": {"agent": "guide", "message": "hello"}}}
                answer = await present(url, person.wallet.tokens[0].access_token, asking)
                challenge = answer.headers["www-authenticate"]
                assert (answer.status_code, 'error="insufficient_scope"' in challenge) == (403, True)
                assert re.search(r'scope="[^"]*\bchat\b[^"]*"', challenge)
                person.browser.scope = None
                turn = fields_of(await call(client, "chat", agent="guide", message="hello"))
            assert (turn["status"], person.sign_ins) == ("completed", 2)
            assert person.wallet.tokens[0].scope == "read"
            assert {"read", "chat"} <= set((person.wallet.tokens[-1].scope or "").split())


@pytest.mark.parametrize("mode", ERAS)
async def test_a_token_for_another_server_is_refused(mode: str, edge_home: Path, config: Path) -> None:
    async with oidc_provider() as provider:
        declare(config, provider)
        async with server(edge_home, config) as here, server(edge_home, config) as there:
            person = Person()
            async with person.client(there, mode) as client:
                assert not (await call(client, "list_sessions")).is_error
            token = person.wallet.tokens[0].access_token
            answer = await present(here, token)
            assert (answer.status_code, 'error="invalid_token"' in answer.headers["www-authenticate"]) == (401, True)
            assert (await present(there, token)).status_code == 200


@pytest.mark.parametrize("mode", ERAS)
async def test_a_program_comes_in_where_it_is_declared_and_is_told_how_where_it_is_not(
    mode: str, edge_home: Path, config: Path
) -> None:
    settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}) as app:
        org_id = (await app.services_provider.services()).principal.org_id
    async with oidc_provider() as provider:
        program = await provider.register(grant_types=["client_credentials"], response_types=[], redirect_uris=[])
        client_id, secret = str(program["client_id"]), str(program["client_secret"])
        place = f'[[issuers.services]]\nclient_id = "{client_id}"\norganization = "{org_id}"\nrole = "viewer"\n'
        for declared in (False, True):
            declare(config, provider, place if declared else "")
            async with server(edge_home, config) as url:
                wallet = Wallet()
                auth = ClientCredentialsOAuthProvider(
                    url, wallet, client_id, secret, scope="read chat", issuer=provider.issuer
                )
                async with httpx2.AsyncClient(auth=auth, timeout=20) as http:
                    answer = await http.post(url, json=PING)
                    claims = jwt.decode(wallet.tokens[0].access_token, options={"verify_signature": False})
                    assert (claims["sub"], claims["aud"]) == (client_id, url)
                    assert (answer.status_code, "www-authenticate" in answer.headers) == (
                        200 if declared else 403,
                        False,
                    )
                    if not declared:
                        assert "[[issuers.services]]" in answer.text
                        continue
                    async with Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client:
                        assert not (await call(client, "list_sessions")).is_error
                        refused_ = await call(client, "chat", agent="guide", message="hello")
                        assert "You may not do this here" in text_of(refused_)


@pytest.mark.parametrize("mode", ERAS)
async def test_an_administrator_sees_the_number_of_sessions_and_no_text(
    mode: str, edge_home: Path, config: Path
) -> None:
    async with oidc_provider() as provider:
        declare(config, provider)
        async with server(edge_home, config) as url:
            member, admin, canary = Person(), Person(), f"canary{new_id().hex}"
            # A client that registers itself registers for what it is first asked for, and gets no more of this issuer.
            known = await provider.register(
                redirect_uris=[REDIRECT],
                token_endpoint_auth_method="none",  # noqa: S106  # a method
                grant_types=["authorization_code", "refresh_token"],
                scope="read chat edit keys admin offline_access",
            )
            admin.wallet.registration = OAuthClientInformationFull.model_validate(known | {"issuer": provider.issuer})
            async with member.client(url, mode) as client:
                turn = fields_of(await call(client, "chat", agent="guide", message=canary))
            async with admin.client(url, mode) as client:
                assert fields_of(await call(client, "list_sessions"))["sessions"] == []
            await make_admin(edge_home, admin.browser.subject, of=member.browser.subject)
            async with admin.client(url, mode) as client:
                seen = await call(client, "get_organization")  # for which their first token lacks the scope
                numbers = fields_of(seen)["numbers"]
                assert isinstance(numbers, dict)
                assert (numbers["members"], numbers["sessions"], numbers["messages"]) == (2, 1, 2)
                told = [seen, await call(client, "list_sessions"), await client.list_resources()]
                for tool in ("get_transcript", "get_turn"):
                    name = "session_id" if tool == "get_transcript" else "turn_id"
                    told.append(await call(client, tool, **{name: turn[name]}))
                    assert "no such" in text_of(told[-1]).lower()  # type: ignore[arg-type]  # an answer of a tool
            assert canary not in "".join(each.model_dump_json() for each in told)
            assert [len(person.browser.asked) for person in (member, admin)] == [1, 2]


async def make_admin(home: Path, subject: str, *, of: str) -> None:
    """Make one subject's account an administrator of another's organisation, as an operator does in the database."""
    postgres = EmbeddedPostgres(home)
    connection = await asyncpg.connect((await asyncio.to_thread(postgres.ensure)).owner_url)
    try:
        await connection.execute(
            "WITH one AS (SELECT user_id FROM agentapi.identities WHERE subject = $1), "
            "org AS (SELECT organization_id FROM public.organization_members m JOIN agentapi.identities i "
            "ON i.user_id = m.user_id WHERE i.subject = $2), "
            "joined AS (INSERT INTO public.organization_members (organization_id, user_id, role) "
            "SELECT organization_id, user_id, 'admin' FROM one, org RETURNING organization_id, user_id) "
            "UPDATE public.profiles p SET current_organization_id = organization_id FROM joined WHERE p.id = user_id",
            subject,
            of,
        )
    finally:
        await connection.close()
        await asyncio.to_thread(postgres.release)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_key_that_was_rotated_away_opens_nothing(mode: str, edge_home: Path, config: Path) -> None:
    clock = LaterClock()
    async with oidc_provider() as provider:
        declare(config, provider)
        async with server(edge_home, config, clock) as url:
            before, after = Person(), Person()
            async with before.client(url, mode) as client:
                assert not (await call(client, "list_sessions")).is_error
            await provider.tell(rotate=True)
            clock.later = timedelta(minutes=1)  # long enough for the issuer to be asked again
            async with after.client(url, mode) as client:
                assert not (await call(client, "list_sessions")).is_error
            answer = await present(url, before.wallet.tokens[0].access_token)
            assert (answer.status_code, 'error="invalid_token"' in answer.headers["www-authenticate"]) == (401, True)
            async with before.client(url, mode) as client:
                assert not (await call(client, "list_sessions")).is_error
            assert before.sign_ins == 2


async def test_a_key_that_was_rotated_away_opens_nothing_after_five_minutes_though_nobody_brings_the_new_one(
    edge_home: Path, config: Path
) -> None:
    clock = LaterClock()
    async with oidc_provider() as provider:
        declare(config, provider)
        async with server(edge_home, config, clock) as url:
            person = Person()
            async with person.client(url) as client:
                assert not (await call(client, "list_sessions")).is_error
            token = person.wallet.tokens[0].access_token
            await provider.tell(rotate=True)
            assert (await present(url, token)).status_code == 200  # the key is kept, and the issuer not asked yet
            clock.later = FRESH_FOR
            answer = await present(url, token)
            assert (answer.status_code, "has expired" in answer.text) == (401, False)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
@pytest.mark.parametrize("named", ["/mcp", "/mcp/", "", "/"])
async def test_a_slash_more_or_less_keeps_nobody_out(named: str, path: str, edge_home: Path, config: Path) -> None:
    async with oidc_provider() as provider:
        declare(config, provider)
        async with server(edge_home, config, path=path, named=named) as url:
            person = Person()
            async with person.client(url) as client:
                assert not (await call(client, "list_sessions")).is_error
            assert person.sign_ins == 1
