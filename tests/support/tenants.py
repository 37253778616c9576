"""Two organisations with two users each, whose tokens come from a real issuer, before a whole server over HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
from mcp import Client
from mcp.client.session import MessageHandlerFnT
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr

from agentapi_mcp.app.database import embedded_postgres
from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.key_pages.pages import key_pages_mount
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.web.application import WebOptions
from agentapi_mcp.web.oauth import OAuth
from tests.support.databases import DatabaseUrls
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.issuer import IssuerPeer, SigningKey
from tests.support.peers.openai import OpenAIPeer

ORIGIN = "https://agents.example.com"
RESOURCE = f"{ORIGIN}/mcp"
KEY = SigningKey("tenants")
_ISSUER = '[[issuers]]\nissuer = "{issuer}"\norganization_claim = "org"\n'


@dataclass(frozen=True, kw_only=True)
class Member:
    """Somebody in an organisation, with a token that is limited to `scopes`."""

    name: str
    user_id: UserId
    org_id: OrgId
    role: Role
    scopes: frozenset[TokenScope] = frozenset(TokenScope)

    @property
    def principal(self) -> Principal:
        """Whom their token lets in."""
        return Principal(self.user_id, self.org_id, self.role, self.scopes)


@dataclass
class Tenants:
    """The server, and who may use it: each attacker stands behind one border from `ann`.

    `abe` is her colleague, `vic` one who may only read, `bo` of another organisation, `bea` there the owner; `away` is
    Ann herself in that other organisation, `narrow` Ann with a token that may manage keys and nothing else.
    """

    place: Served
    issuer: IssuerPeer
    services: Services
    server: EdgeServer
    peer: OpenAIPeer
    database: Database
    owner_url: str
    members: dict[str, Member] = field(default_factory=dict[str, Member])

    def token(self, name: str) -> str:
        """Make a member's token."""
        member = self.members[name]
        said = {"iss": self.issuer.issuer, "sub": str(member.user_id), "aud": RESOURCE, "org": str(member.org_id)}
        said |= {"exp": datetime.now(UTC).timestamp() + 3600, "scope": " ".join(sorted(member.scopes))}
        return KEY.sign(said)

    def http(self, name: str) -> httpx2.AsyncClient:
        """Make plain HTTP requests as a member."""
        return httpx2.AsyncClient(headers={"authorization": f"Bearer {self.token(name)}"}, timeout=25)

    @asynccontextmanager
    async def client(self, name: str, link: str, handler: MessageHandlerFnT | None = None) -> AsyncGenerator[Client]:
        """Connect an MCP client as a member."""
        transport, era = link.split("-")
        async with self.http(name) as http:
            target: Any = (
                streamable_http_client(self.place.mcp, http_client=http)
                if transport == "http"
                else sse_client(self.place.sse, headers=dict(http.headers))
            )
            mode = "legacy" if era == "2025" else "auto"
            async with Client(target, mode=mode, message_handler=handler, cache=None) as client:
                yield client


@asynccontextmanager
async def tenants(
    home: Path,
    directory: Path,
    *,
    clock: Clock | None = None,
    capacities: Mapping[Resource, int] | None = None,
    urls: DatabaseUrls | None = None,
) -> AsyncGenerator[Tenants]:
    """Open the server with its two organisations, on a database of its own if there is one.

    Who holds a stream open, and whose turns run, is looked at again all the time.
    """
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(IssuerPeer(KEY))
        peer = await stack.enter_async_context(OpenAIPeer())
        config = directory / "agentapi.toml"
        config.write_text(_ISSUER.format(issuer=issuer.issuer), encoding="utf-8")
        settings = Settings(
            home=home, config=config, resource_url=RESOURCE, postgres_linger_seconds=20, shutdown_grace_seconds=0
        )
        if urls is not None:
            settings = settings.model_copy(
                update={"database_url": SecretStr(urls.app), "migrate_database_url": SecretStr(urls.owner)}
            )
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        often = TurnRunnerOptions(shutdown_grace=timedelta(0), check_members_every=timedelta(milliseconds=20))
        options = AppOptions(capacities=capacities or {}, run_options=often)
        app = await stack.enter_async_context(open_app(settings, environ, clock=clock, options=options))
        services = await app.services_provider.services()
        owner_url, app_url = await _urls(stack, settings, environ)
        database = await stack.enter_async_context(open_database(RemoteServer(app_url), PoolOptions()))
        server = create_server(app.services_provider, McpOptions(toolsets=frozenset(toolset_names())))
        web = WebOptions(
            oauth=OAuth(resource=RESOURCE, services_provider=app.services_provider),
            reauthenticate_every=timedelta(milliseconds=20),
            shares=app.shares,
        )
        pages = key_pages_mount(app.services_provider, ORIGIN)
        place = await stack.enter_async_context(serve_app(mcp_application(server, web, pages)))
        made = Tenants(place, issuer, services, server, peer, database, owner_url)
        made.members = await _members(database, issuer.issuer)
        yield made


async def _urls(stack: AsyncExitStack, settings: Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the addresses of the server's database for the owner of its tables and for the program."""
    if settings.database_url is not None and settings.migrate_database_url is not None:
        return settings.migrate_database_url.get_secret_value(), settings.database_url.get_secret_value()
    embedded = embedded_postgres(settings, environ)
    urls = await asyncio.to_thread(embedded.ensure)
    stack.push_async_callback(asyncio.to_thread, embedded.release)
    return urls.owner_url, urls.app_url


async def _members(database: Database, issuer: str) -> dict[str, Member]:
    one, two = OrgId(new_id()), OrgId(new_id())
    ann = UserId(new_id())

    def member(name: str, role: Role, org_id: OrgId, user_id: UUID | None = None, *scopes: TokenScope) -> Member:
        limited = frozenset(scopes) or frozenset(TokenScope)
        return Member(name=name, user_id=UserId(user_id or new_id()), org_id=org_id, role=role, scopes=limited)

    members = [
        member("ann", Role.MEMBER, one, ann),
        member("abe", Role.OWNER, one),
        member("vic", Role.VIEWER, one),
        member("bo", Role.MEMBER, two),
        member("bea", Role.OWNER, two),
        member("away", Role.OWNER, two, ann),
        member("narrow", Role.MEMBER, one, ann, TokenScope.KEYS),
    ]
    async with database.as_system("test") as connection:
        for org_id in (one, two):
            await connection.execute(
                "INSERT INTO public.organizations (id, name) VALUES ($1, $2)", org_id, f"o{uuid4().hex}"
            )
        for user_id in {one.user_id for one in members}:
            await connection.execute("INSERT INTO public.profiles (id) VALUES ($1)", user_id)
            await connection.execute(
                "INSERT INTO agentapi.identities (issuer, subject, user_id) VALUES ($1, $2, $3)",
                issuer,
                str(user_id),
                user_id,
            )
        for one_of in members:
            await connection.execute(
                "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, $3) "
                "ON CONFLICT DO NOTHING",
                one_of.org_id,
                one_of.user_id,
                str(one_of.role),
            )
    return {one_of.name: one_of for one_of in members}
