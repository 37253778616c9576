"""A changed configuration file is taken by a running program, a wrong one is not, and no turn is dropped."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.local.catalogue_watch import fingerprint
from agentapi_mcp.testing.http import Steps
from tests.support.clocks import QuickClock
from tests.support.connect import LINKS, Link, connect
from tests.support.peers.openai import OpenAIPeer

WAIT = timedelta(seconds=25)


@dataclass
class Program:
    """A program with a file of its own."""

    services: Services
    file: Path
    name: str
    peer: OpenAIPeer

    async def ask(self, request: ChatRequest) -> Turn:
        """Send a message, and receive its answer, as an edge does."""
        turn = await self.services.turns.chat(self.services.principal, request, wait=WAIT)
        self.services.turns.delivered(turn)
        return turn

    def write(self, model: str = "stub-1", more: str = "") -> None:
        """Write the file anew, as an editor does: beside the old one, and over it."""
        text = (
            f'[agents.{self.name}]\nbackend = "openai"\ndefault_model = "m"\n[agents.{self.name}.options]\n'
            f'base_url = "{self.peer.origin}/v1"\napi_key = "sk-test-{model}-0123"\n'
            f'[[agents.{self.name}.models]]\nname = "m"\nmodel_id = "{model}"\nprovider = "stub"\n{more}'
        )
        beside = self.file.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.file)

    async def agents(self) -> dict[str, tuple[str, ...]]:
        """Tell which agents there are, and what each lacks."""
        listed = await self.services.agents.list_(self.services.principal, limit=200)
        return {agent.name: agent.missing for agent in listed.items}

    async def undeclared(self) -> list[str]:
        """Tell which agents there are that this program's file does not declare."""
        return [row.name for row in await self.services.undeclared_agents.list_()]

    async def until(self, name: str, *, there: bool = True) -> None:
        """Wait until an agent can be used, or no more."""
        async with asyncio.timeout(25):
            while ((await self.agents()).get(name) == ()) is not there:
                pass

    async def configuration(self) -> tuple[HealthStatus, str]:
        """Tell how the configuration is."""
        report = await self.services.health.report(self.services.principal)
        return next((part.status, part.detail) for part in report.parts if part.name == "configuration")


@asynccontextmanager
async def program(home: Path, place: Path, peer: OpenAIPeer) -> AsyncGenerator[Program]:
    """Open a program on a file that is not there yet in its home's place."""
    name = f"z{str(new_id())[-10:]}"
    file = place / "agentapi.toml"
    file.write_text("", encoding="utf-8")
    settings = Settings(home=home, config=file, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with open_app(settings, {}, clock=QuickClock()) as app:
        yield Program(await app.services_provider.services(), file, name, peer)


async def test_an_agent_is_added_changed_and_removed_while_the_program_runs(edge_home: Path, tmp_path: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, peer) as at:
        assert at.name not in await at.agents()
        at.write()
        await at.until(at.name)
        ask = ChatRequest(message="hello", agent=at.name)
        turn = await at.ask(ask)
        assert (turn.status, peer.exchanges[-1].json["model"]) == (TurnStatus.COMPLETED, "stub-1")
        at.write("stub-2")
        async with asyncio.timeout(25):
            while peer.exchanges[-1].headers["authorization"] != "Bearer sk-test-stub-2-0123":
                await at.ask(ask)
        assert peer.exchanges[-1].json["model"] == "stub-2"
        at.file.write_text("", encoding="utf-8")
        await at.until(at.name, there=False)
        assert at.name not in await at.agents()
        later = replace(ask, agent=None, message="again", session_id=str(turn.session_id))
        with pytest.raises(NotFoundError, match=f"The agent {at.name} is not declared in the configuration file"):
            await at.ask(later)
        read = await at.services.turns.get(at.services.principal, str(turn.id), wait=timedelta(0))
        assert (read.agent, read.reply) == (turn.agent, turn.reply)


async def test_a_turn_goes_on_with_the_backend_that_it_began_with(edge_home: Path, tmp_path: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, tmp_path, peer) as at:
        at.write()
        await at.until(at.name)
        ask = ChatRequest(message="[[slow]] [[chunks3]]", agent=at.name)
        turn = await at.services.turns.start(at.services.principal, ask)
        await peer.received()
        at.file.write_text("", encoding="utf-8")
        await at.until(at.name, there=False)
        steps.release(10)
        ended = await at.services.turns.get(at.services.principal, str(turn.id), wait=WAIT)
        assert (ended.status, ended.reply.strip()) == (TurnStatus.COMPLETED, "w0 w1 w2")


async def test_a_bad_file_changes_nothing_and_says_why_until_it_is_mended(
    edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, peer) as at:
        at.write()
        await at.until(at.name)
        assert (await at.configuration())[0] is HealthStatus.HEALTHY
        at.write(more="[agents.broken]\nbackend = 'guide'\nbakend = 1\n")
        async with asyncio.timeout(25):
            while (await at.configuration())[0] is HealthStatus.HEALTHY:
                pass
        detail = (await at.configuration())[1]
        assert "unknown key 'bakend'" in detail
        assert "line 13" in detail
        assert (await at.agents())[at.name] == ()
        at.file.unlink()
        async with asyncio.timeout(25):
            while "no such file" not in (await at.configuration())[1]:
                pass
        at.write("stub-2")
        async with asyncio.timeout(25):
            while (await at.configuration())[0] is not HealthStatus.HEALTHY:
                pass
    refused = [record for record in caplog.records if record.message == "configuration_refused"]
    assert len(refused) == 2  # once for each fault, not for each look


async def test_being_told_reads_a_file_that_looks_unchanged(edge_home: Path, tmp_path: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, peer) as at:
        at.services.reload()
        at.write()
        at.services.reload()
        await at.until(at.name)
        assert (await at.agents())[at.name] == ()


@pytest.mark.parametrize("link", LINKS)
async def test_clients_hear_that_the_agents_changed(link: Link, edge_home: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    count = itertools.count(1)

    async def hear(message: object) -> None:
        heard.append(type(message).__name__)

    file = tmp_path / "agentapi.toml"
    file.write_text("", encoding="utf-8")
    settings = Settings(home=edge_home, config=file, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    async with OpenAIPeer() as peer, open_app(settings, {}, clock=QuickClock()) as app:
        services = await app.services_provider.services()
        at = Program(services, file, f"z{str(new_id())[-10:]}", peer)
        server = create_server(app.services_provider, McpOptions())
        async with connect(server, link, message_handler=hear) as client:
            if link.endswith("2026"):
                async with client.listen(resources_list_changed=True) as events:
                    at.write()
                    assert "ListChanged" in type(await anext(aiter(events))).__name__
            else:
                async with asyncio.timeout(25):  # over HTTP it is told what happens once its own GET has come
                    while not any("ListChanged" in said for said in heard):
                        at.write(f"stub-{next(count)}")
                        await client.list_tools()


async def test_another_process_sees_the_change_at_once(edge_home: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with (
        OpenAIPeer() as peer,
        program(edge_home, one, peer) as changing,
        program(edge_home, two, peer) as watching,
    ):
        changing.write()
        async with asyncio.timeout(25):
            while changing.name not in await watching.undeclared():
                await watching.agents()  # which reads the database, so that the loop gets to the notification
        assert changing.name not in await watching.agents()  # it is declared in the other's file alone


async def test_two_programs_with_different_files_do_not_fight(
    edge_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with OpenAIPeer() as peer, program(edge_home, one, peer) as a, program(edge_home, two, peer) as b:
        b.name = a.name
        a.write("stub-1")
        await a.until(a.name)
        b.write("stub-2")
        await b.until(b.name)
        for at, model in ((a, "stub-1"), (b, "stub-2"), (a, "stub-1")):
            ask = ChatRequest(message="hello", agent=at.name, new=True)
            turn = await at.ask(ask)
            assert (turn.status, peer.exchanges[-1].json["model"]) == (TurnStatus.COMPLETED, model)
    reloaded = [record for record in caplog.records if record.message == "configuration_reloaded"]
    assert len(reloaded) == 2


def test_a_change_behind_a_symbolic_link_shows(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "file").write_text("same", encoding="utf-8")
    (tmp_path / "data").symlink_to("1")
    before = fingerprint([tmp_path / "data" / "file"])
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(tmp_path / "data")
    assert fingerprint([tmp_path / "data" / "file"]) != before
    (tmp_path / "data").unlink()
    assert fingerprint([tmp_path / "data" / "file"])[0][1] is None
