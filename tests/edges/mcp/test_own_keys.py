"""Keys that people brought, through the whole program: whose key is asked with, and that no key is seen anywhere."""

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from secrets import token_bytes
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.core.keys.api_keys import NewApiKey
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from tests.support.connect import LINKS, Link, call, connect, fields_of, text_of
from tests.support.dumps import contents
from tests.support.peers.openai import OpenAIPeer

SERVERS = "sk-of-the-server-0123456789"
WAIT = timedelta(seconds=25)


@dataclass
class ServerSetup:
    """A program with an agent of its own, whose provider is of its own too."""

    services: Services
    server: EdgeServer
    peer: OpenAIPeer
    name: str

    async def add(self, value: str, provider: str | None = None, *, organization: bool = False) -> None:
        """Add a key; it is deleted when the server is closed."""
        new = NewApiKey(provider=provider or self.name, value=SecretStr(value), name=f"{self.name} {uuid4()}")
        await self.services.api_keys.add(self.services.principal, new, organization=organization)

    async def ask(self, words: str = "hello", model: str | None = None) -> Turn:
        """Ask the agent something that nobody asked before."""
        request = ChatRequest(message=f"{uuid4()}\n\n{words}", agent=self.name, model=model)
        return await self.services.turns.chat(self.services.principal, request, wait=WAIT)

    @property
    def sent(self) -> str:
        """The key of the last request."""
        asked = [each for each in self.peer.exchanges if each.path.endswith("completions")]
        return asked[-1].headers["authorization"].removeprefix("Bearer ")

    async def clear(self) -> None:
        """Remove the keys of this test."""
        keys, principal = self.services.api_keys, self.services.principal
        for organization in (False, True):
            for key in await keys.list_(principal, organization=organization):
                if key.name.startswith(self.name):
                    await keys.remove(principal, str(key.id), organization=organization)


def written(name: str, peer: OpenAIPeer, options: Sequence[str] = (f'api_key = "{SERVERS}"',)) -> str:
    """Write a configuration with one agent."""
    lines = [
        f'[agents.{name}]\nbackend = "openai"\ndefault_model = "m"\n[agents.{name}.options]',
        f'base_url = "{peer.origin}/v1"\nprovider = "{name}"',
        *options,
        f'[[agents.{name}.models]]\nname = "m"\nmodel_id = "stub"\nprovider = "{name}"',
        f'[[agents.{name}.models]]\nname = "other"\nmodel_id = "stub-2"\nprovider = "somebody"',
    ]
    return "\n".join(lines)


@asynccontextmanager
async def open_setup(home: Path, place: Path, *options: str) -> AsyncGenerator[ServerSetup]:
    """Open a program."""
    name, file = f"z{str(new_id())[-10:]}", place / "agentapi.toml"
    master = base64.b64encode(token_bytes(32)).decode()
    settings = Settings(
        home=home, config=file, master_key=SecretStr(master), postgres_linger_seconds=20, shutdown_grace_seconds=0
    )
    async with OpenAIPeer() as peer:
        file.write_text(written(name, peer, options) if options else written(name, peer), encoding="utf-8")
        async with open_app(settings, {}) as app:
            services = await app.services_provider.services()
            at = ServerSetup(services, create_server(app.services_provider, McpOptions()), peer, name)
            try:
                yield at
            finally:
                await at.clear()


def route(turn: Turn) -> list[str]:
    return [str(attempt.key) for attempt in turn.bill.route]


async def test_the_users_key_is_sent_then_the_organisations_then_the_servers(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        assert (route(await at.ask()), at.sent) == (["server"], SERVERS)
        await at.add("sk-of-the-organisation", organization=True)
        assert (route(await at.ask()), at.sent) == (["organization"], "sk-of-the-organisation")
        await at.add("sk-of-the-user-0123")
        turn = await at.ask()
        assert (route(turn), at.sent) == (["user"], "sk-of-the-user-0123")
        again = await at.services.turns.get(at.services.principal, str(turn.id))
        assert route(again) == ["user"]
        (used,) = [key for key in await at.services.api_keys.list_(at.services.principal) if key.last_used_at]
        assert used.name.startswith(at.name)


async def test_a_key_goes_to_no_agent_that_its_operator_did_not_declare_for_its_provider(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        await at.add("sk-of-the-user-0123", provider="bank")
        assert (route(await at.ask()), at.sent) == (["server"], SERVERS)
        # A row is data: whoever writes one does not get keys sent to an agent of another provider.
        await write_model(edge_home, at.name, "bank")
        await at.services.agents.refresh()
        assert (route(await at.ask(model="planted")), at.sent) == (["server"], SERVERS)
        await at.add("sk-for-somebody-0123", provider="Somebody")
        assert (route(await at.ask(model="other")), at.sent) == (["user"], "sk-for-somebody-0123")


async def test_an_agent_that_takes_no_keys_is_asked_with_its_own(edge_home: Path, tmp_path: Path) -> None:
    async with open_setup(edge_home, tmp_path, f'api_key = "{SERVERS}"', "own_keys = false") as at:
        await at.add("sk-of-the-user-0123")
        assert (route(await at.ask()), at.sent) == (["server"], SERVERS)


@pytest.mark.parametrize(("organization", "said"), [(False, "your own key for"), (True, "your organisation's key for")])
async def test_a_refusal_says_whose_key_it_was_and_makes_nobody_else_think_the_agent_ill(
    edge_home: Path,
    tmp_path: Path,
    organization: bool,  # noqa: FBT001  # a case
    said: str,
) -> None:
    async with open_setup(edge_home, tmp_path) as at:
        await at.add("sk-of-the-user-0123", organization=organization)
        turn, _, _ = [await at.ask("[[e401]]") for _ in range(3)]
        assert turn.status is TurnStatus.FAILED
        assert turn.error is not None
        assert f"It was {said}" in turn.error.next_step
        assert "`agentapi-mcp keys add " in turn.error.next_step
        paid = await at.ask("[[e402]]")
        assert paid.error is not None
        assert f"No credit or quota is left for {said}" in paid.error.next_step
        agent = await at.services.agents.get(at.services.principal, at.name)
        assert agent.health.status is not HealthStatus.UNHEALTHY
        await at.clear()
        refused = await at.ask("[[e401]]")
        assert refused.error is not None
        assert "operator" in refused.error.next_step


async def test_an_agent_that_lacks_only_a_key_can_be_used_by_whoever_brings_one(
    edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path, 'api_key = "${NOT_SET_HERE}"') as at:
        me = at.services.principal
        with pytest.raises(BackendError, match="NOT_SET_HERE is not set") as refused:
            await at.ask()
        assert f", add a key of your own (`agentapi-mcp keys add {at.name}`), or use" in refused.value.next_step
        assert refused.value.fault is BackendFault.BACKEND_MISSING
        await at.add("sk-of-the-user-0123")
        assert (route(await at.ask()), at.sent) == (["user"], "sk-of-the-user-0123")
        assert (await at.services.agents.get(me, at.name)).missing == ()
        viewer = replace(me, role=Role.VIEWER)
        assert (await at.services.agents.get(viewer, at.name)).missing == ("NOT_SET_HERE is not set",)
        asked = len(at.peer.exchanges)
        with pytest.raises(BackendError, match="NOT_SET_HERE is not set"):
            await at.ask(model="other")
        by_default = await at.services.agents.resolve(means=await at.services.wallet.means(me))
        assert by_default.agent == at.name
        with pytest.raises(BackendError, match="NOT_SET_HERE is not set"):
            await at.services.agents.resolve(model="other", means=await at.services.wallet.means(me))
        await at.clear()
        with pytest.raises(BackendError, match="NOT_SET_HERE is not set"):
            await at.ask()
        assert len(at.peer.exchanges) == asked


@pytest.mark.parametrize(
    "options",
    [
        ('api_key = "${NOT_SET_HERE}"', 'app_title = "${NOR_THIS}"'),
        ('api_key = "${NOT_SET_HERE}"', 'app_title = "${NOT_SET_HERE}"'),
        ('api_key = "${NOT_SET_HERE}"', "own_keys = false"),
    ],
)
async def test_an_agent_that_lacks_more_than_a_key_stays_as_it_is(
    options: tuple[str, ...], edge_home: Path, tmp_path: Path
) -> None:
    async with open_setup(edge_home, tmp_path, *options) as at:
        await at.add("sk-of-the-user-0123")
        with pytest.raises(BackendError, match="NOT_SET_HERE is not set") as refused:
            await at.ask()
        assert "keys add" not in str(refused.value)
        assert (await at.services.agents.get(at.services.principal, at.name)).missing != ()


@pytest.mark.parametrize("link", LINKS)
async def test_a_planted_key_is_found_nowhere(
    link: Link, edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    canary = f"canary-{uuid4().hex}"
    caplog.set_level(logging.DEBUG)
    async with open_setup(edge_home, tmp_path) as at, connect(at.server, link) as client:
        await at.add(canary)
        answers: list[object] = []
        for words in ("hello", "[[leak]]", "[[e401]]", "[[badjson]]", "[[cut]]"):
            answer = await call(client, "chat", agent=at.name, message=f"{uuid4()}\n\n{words}")
            assert at.sent == canary
            fields = fields_of(answer)
            assert [step["key"] for step in fields["route"]] == ["user"]  # type: ignore[union-attr, index]  # a list of objects
            answers += [text_of(answer), fields]
            for tool in ("get_turn", "get_transcript"):
                ids = {"get_turn": "turn_id", "get_transcript": "session_id"}
                answers.append(fields_of(await call(client, tool, **{ids[tool]: fields[ids[tool]]})))
        for tool in ("list_agents", "list_models", "list_sessions", "get_health"):
            answers.append(fields_of(await call(client, tool)))
        kept = await everything(edge_home)
        await at.clear()
    logged = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert at.name in kept
    for place in (kept, str(answers), "\n".join(logged)):
        for form in (canary, canary.encode().hex(), base64.b64encode(canary.encode()).decode()[:-4]):
            assert form not in place


async def everything(home: Path) -> str:
    """Write down the whole database."""
    postgres = EmbeddedPostgres(home)
    urls = await asyncio.to_thread(postgres.ensure)
    try:
        return await contents(urls.owner_url.replace("agentapi_owner@/agentapi", "postgres@/agentapi"))
    finally:
        await asyncio.to_thread(postgres.release)


async def write_model(home: Path, agent: str, provider: str) -> None:
    """Write a row as somebody with a login could."""
    postgres = EmbeddedPostgres(home)
    urls = await asyncio.to_thread(postgres.ensure)
    connection = await asyncpg.connect(urls.owner_url)
    try:
        await connection.execute(
            "INSERT INTO public.models (agent_id, name, provider, model_id) "
            "SELECT id, 'planted', $2, 'planted' FROM public.agents WHERE name = $1",
            agent,
            provider,
        )
    finally:
        await connection.close()
        await asyncio.to_thread(postgres.release)
