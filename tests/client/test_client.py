"""A Python program that asks agents: over HTTP and over stdio, with real servers."""

import asyncio
import math
import re
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from uuid import uuid4

import pytest

import agentapi_mcp
from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.client import (
    AgentClient,
    Answer,
    BudgetExceededError,
    BudgetLeft,
    BudgetState,
    ConnectionLostError,
    RefusedError,
    Turn,
    TurnError,
)
from agentapi_mcp.client.connections import ChatOptions
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.models import TurnOut
from agentapi_mcp.presentation.output_model import OutputModel
from agentapi_mcp.web.application import WebOptions
from tests.support.connect import Edge, open_edge
from tests.support.databases import Seed
from tests.support.edges import Served, mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.residents import asked
from tests.support.sockets import Line, Script, serving

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-from-python.md"
TRANSPORTS = pytest.mark.parametrize("transport", ["http", pytest.param("stdio", marks=pytest.mark.acceptance)])


@dataclass(frozen=True)
class Scene:
    """A client, and the provider that stands behind the server's agent `droid`."""

    agents: AgentClient
    peer: OpenAIPeer

    def ask(self, words: str = "") -> Answer:
        """Ask what no other test asks."""
        return self.agents.chat(f"{uuid4().hex} {words}", agent="droid")


@asynccontextmanager
async def over_http(edge: Edge) -> AsyncGenerator[AgentClient]:
    served = serve_app(mcp_application(edge.server, WebOptions()))
    async with served as at, agentapi_mcp.connect(at.mcp) as agents:
        yield agents


@asynccontextmanager
async def open_scene(home: Path, transport: str = "http") -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        peer = OpenAIPeer()
        if transport == "http":
            edge = await stack.enter_async_context(open_edge(home, peer))
            yield Scene(await stack.enter_async_context(over_http(edge)), peer)
        else:
            await stack.enter_async_context(peer)
            env = {
                "AGENTAPI_HOME": str(home),
                "OPENROUTER_API_KEY": "sk-or-v1-test",
                "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url,
                "AGENTAPI_POSTGRES_LINGER_SECONDS": "10",
            }
            yield Scene(await stack.enter_async_context(agentapi_mcp.connect(env=env)), peer)


@TRANSPORTS
async def test_the_pieces_come_while_the_agent_writes_and_are_the_reply(transport: str, edge_home: Path) -> None:
    async with open_scene(edge_home, transport) as scene:
        answer, pieces = scene.ask("[[slow]]"), list[str]()
        scene.peer.steps.release(3)
        async for piece in answer:
            pieces.append(piece)
            if len(pieces) == 1:
                assert not scene.peer.exchanges[-1].ended.is_set()
                scene.peer.steps.release(200)
        turn = await answer
        assert len(pieces) > 1
        assert "".join(pieces) == turn.reply == answer.text
        assert (turn.status, turn.cost_usd, turn.usage.input_tokens) == ("completed", 0.00014, 11)
        assert asked(scene.peer) == 1


async def test_an_answer_may_be_read_twice_and_is_asked_for_once(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask()
        turn = await answer
        assert "".join([piece async for piece in answer]) == turn.reply
        assert (await answer).turn_id == turn.turn_id
        assert asked(scene.peer) == 1


async def test_a_reply_that_is_longer_than_a_result_comes_whole(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask("[[megabytes1]]")
        joined = "".join([piece async for piece in answer])
        turn = await answer
        assert (joined, turn.reply, turn.reply_truncated) == (turn.reply, joined, False)
        assert len(joined) > 1_000_000


async def test_a_turn_that_fails_raises_after_what_was_said(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer, said = scene.ask("[[errchunk]]"), list[str]()
        with pytest.raises(TurnError) as raised:
            await _note(answer, said.append)
        assert "".join(said) == raised.value.turn.reply != ""
        assert (raised.value.turn.status, raised.value.code) == ("failed", "upstream")
        assert str(raised.value.turn.next_step) in str(raised.value)


async def _note(answer: Answer, note: Callable[[str], None]) -> None:
    async for piece in answer:
        note(piece)


async def test_a_provider_that_is_busy_says_when_to_come_back(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        with pytest.raises(TurnError) as raised:
            await scene.ask("[[says]]")
        assert (raised.value.code, raised.value.retryable) == ("rate_limit", True)
        assert raised.value.retry_after_seconds is not None


async def test_what_the_server_refuses_is_not_asked(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        with pytest.raises(RefusedError, match="nobody") as refused:
            await scene.agents.chat("hi", agent="nobody")
        assert (refused.value.code, refused.value.fault, refused.value.retryable) == ("not_found", None, False)
        with pytest.raises(RefusedError) as refused:
            await scene.agents.chat("hi", agent="ccrouter")
        assert (refused.value.code, refused.value.fault) == ("backend", "backend_missing")
        with pytest.raises(RefusedError) as refused:
            await scene.agents.turn("no id")
        assert (refused.value.code, refused.value.retry_after_seconds) == ("invalid_request", None)
        assert scene.peer.exchanges == []


async def test_a_turn_can_be_stopped(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask("[[slow]]")
        with pytest.raises(RuntimeError, match="nothing to stop"):
            await answer.cancel()
        scene.peer.steps.release(3)
        async with aclosing(aiter(answer)) as pieces:
            await anext(pieces)
        cancelled = await answer.cancel()
        await scene.peer.client_gone()
        assert (cancelled.status, cancelled.turn_id) == ("cancelled", answer.turn_id)
        with pytest.raises(TurnError) as raised:
            await answer
        assert raised.value.code == "cancelled"


@pytest.mark.parametrize("way", ["iterate", "await"])
async def test_a_program_that_gives_up_stops_the_turn(way: str, edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask("[[slow]]")

        async def wait() -> None:
            if way == "await":
                await answer
            async for _ in answer:
                pass

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(wait())
            await scene.peer.received()
            waiting.cancel()
        await scene.peer.client_gone()
        assert asked(scene.peer) == 1


@pytest.mark.parametrize("way", ["iterate", "await"])
async def test_an_answer_that_was_given_up_says_so_to_who_asks_again(way: str, edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask("[[slow]]")
        scene.peer.steps.release(3)
        async with aclosing(aiter(answer)) as pieces:
            await anext(pieces)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await answer
        await scene.peer.client_gone()
        with pytest.raises(ConnectionLostError, match="given up") as raised:
            await (_note(answer, lambda _: None) if way == "iterate" else answer)
        assert raised.value.turn_id == answer.turn_id


async def test_giving_up_stops_a_turn_that_is_only_looked_at(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        answer = scene.ask("[[slow]]")
        answer.wire.wait_seconds = 1  # else it takes four minutes
        async with aclosing(aiter(answer)) as pieces:
            while not answer.is_begun:  # a piece each tenth of a second at most, of a hundred
                scene.peer.steps.release()
                await anext(pieces)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await answer
        await scene.peer.client_gone()
        assert asked(scene.peer) == 1


async def test_what_no_message_can_hold_is_refused_alone(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        other = scene.ask()
        with pytest.raises(RefusedError, match="half of a character"):
            await scene.agents.chat("bad \ud800", agent="droid")
        for number in (math.nan, math.inf):
            with pytest.raises(RefusedError, match="nothing was sent"):
                await scene.agents.chat("unbounded", agent="droid", max_cost_usd=number)
        with pytest.raises(RefusedError, match="max_cost_usd must be a number of at least 0"):
            await scene.agents.chat("unbounded", agent="droid", max_cost_usd=-1)
        assert (await other).status == "completed"


async def test_what_a_message_may_cost_is_told_and_bounded(seed: Seed) -> None:
    options = McpOptions(toolsets=frozenset({"core", "admin", "usage"}))
    async with (
        seed.started("client-") as server,
        open_edge(server.home, OpenAIPeer(), options) as edge,
        over_http(edge) as agents,
    ):
        how: ChatOptions = {"agent": "droid", "max_tokens": 1000}
        estimate = await agents.estimate("hello", **how)
        cost = estimate.estimated_cost_usd
        assert cost is not None
        assert (estimate.agent, estimate.budget, estimate.error) == ("droid", None, None)
        with pytest.raises(BudgetExceededError, match="that you allow") as beyond:
            await agents.chat("hello", **{**how, "max_cost_usd": cost / 2})
        refused = beyond.value
        assert (refused.needed_usd, refused.max_cost_usd, refused.budget) == (cost, cost / 2, None)
        assert (refused.code, refused.retryable) == ("budget_exceeded", False)

        assert await agents.budgets() == []
        await agents.call("set_budget", {"limit_usd": cost / 4, "period": "total"})
        [budget] = await agents.budgets()
        assert (budget.scope, budget.limit_usd, budget.left_usd) == ("organization", cost / 4, cost / 4)
        left = BudgetLeft(
            scope="organization", period="total", hard=True, limit_usd=cost / 4, left_usd=cost / 4, renews_at=None
        )
        with pytest.raises(BudgetExceededError, match=r"has .* left, and") as over:
            await agents.chat("hello", **how)
        assert (over.value.needed_usd, over.value.max_cost_usd, over.value.budget) == (cost, None, left)
        estimate = await agents.estimate("hello", **how)
        assert estimate.budget == BudgetState(**left.model_dump())
        assert estimate.error is not None
        assert estimate.error.code == "budget_exceeded"
        assert estimate.text.endswith("The budget has no room for it: it would be refused. Nothing was asked.")
        assert asked(edge.peer) == 0


async def test_a_message_that_is_asked_anew_has_a_key_too(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        message = uuid4().hex
        first = scene.agents.chat(message, agent="droid")
        again = scene.agents.chat(message, agent="droid", new=True)
        assert (await first).turn_id != (await again).turn_id
        assert first.arguments["idempotency_key"] != again.arguments["idempotency_key"]
        assert again.arguments["idempotency_key"] is not None


async def test_a_key_of_ones_own_finds_the_turn_again(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        key, message = uuid4().hex, uuid4().hex
        first = await scene.agents.chat(message, agent="droid", idempotency_key=key)
        again = await scene.agents.chat(message, agent="droid", idempotency_key=key)
        other = await scene.agents.chat(message, agent="droid")
        assert (again.turn_id, again.joined) == (first.turn_id, True)
        assert other.turn_id != first.turn_id
        assert asked(scene.peer) == 2


async def test_a_turn_whose_connection_is_lost_is_taken_up_again_by_its_id(edge_home: Path) -> None:
    peer = OpenAIPeer()
    async with (
        open_edge(edge_home, peer) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as served,
        serving(passing_to(served)) as network,
    ):
        async with agentapi_mcp.connect(f"{network.origin}/mcp") as agents:
            answer = agents.chat(f"{edge.tag} [[slow]]", agent="droid")
            peer.steps.release(3)
            async with aclosing(aiter(answer)) as pieces:
                known = await anext(pieces)
            for line in network.lines:
                line.reset()
            with pytest.raises(ConnectionLostError) as raised:
                await answer
        assert raised.value.turn_id is not None
        async with agentapi_mcp.connect(f"{network.origin}/mcp") as agents:
            again = agents.turn(raised.value.turn_id, known=len(known))
            peer.steps.release(200)
            turn = await again
            assert known + again.text == turn.reply
            assert (turn.status, asked(peer)) == ("completed", 1)


async def test_nothing_is_asked_for_after_an_answer_that_may_be_the_servers_last(edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as served,
        serving(passing_to(served)) as network,
        agentapi_mcp.connect(f"{network.origin}/mcp") as agents,
    ):
        await agents.chat(edge.tag, agent="droid")
        heard = b"".join(network.heard)
        assert heard.count(b'"tools/list"') == heard.count(b'"tools/call"') == 1
        assert heard.index(b'"tools/list"') < heard.index(b'"tools/call"')


def passing_to(served: Served) -> Script:
    """Copy all bytes to a server, which are noted, and back. It does not hear that a client's connection is lost."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: list[bytes]) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                note.append(data)
                writer.write(data)
                await writer.drain()

    async def script(line: Line) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.base.rpartition(":")[2]))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(line.reader, writer, line.peer.heard))
                group.create_task(copy(reader, line.writer, []))
        finally:
            writer.transport.abort()

    return script


async def test_what_the_program_leaves_is_no_longer_waited_for(edge_home: Path) -> None:
    peer = OpenAIPeer()
    async with open_edge(edge_home, peer) as edge:
        async with over_http(edge) as agents:
            answer = agents.chat(f"{edge.tag} [[slow]]", agent="droid")
            peer.steps.release(3)
            async with aclosing(aiter(answer)) as pieces:
                await anext(pieces)
        with pytest.raises(ConnectionLostError):
            await answer
        await peer.client_gone()  # the grace of this server is over at once
        async with over_http(edge) as agents:
            with pytest.raises(TurnError) as raised:
                await agents.turn(str(answer.turn_id))
            assert raised.value.turn.end_reason == "abandoned"


async def test_errors_of_the_program_come_as_they_are(edge_home: Path) -> None:
    async def fail(edge: Edge) -> None:
        async with over_http(edge) as agents:
            await agents.agents()
            raise ZeroDivisionError

    async with open_edge(edge_home, OpenAIPeer()) as edge:
        with pytest.raises(ZeroDivisionError):
            await fail(edge)


async def test_lists_are_read_to_their_end(edge_home: Path) -> None:
    async with open_scene(edge_home) as scene:
        turn = await scene.ask()
        assert {"ccrouter", "droid", "guide"} <= {agent.name for agent in await scene.agents.agents()}
        models = await scene.agents.models("droid")
        assert {model.agent for model in models} == {"droid"}
        assert turn.session_id in [session.session_id for session in await scene.agents.sessions()]


async def test_a_mistake_in_the_program_is_told_as_what_it_is() -> None:
    with pytest.raises(TypeError):
        async with agentapi_mcp.connect(env=7):  # type: ignore[arg-type]  # the mistake
            pass


async def test_a_server_that_is_not_there_is_told_in_words() -> None:
    with pytest.raises(ConnectionLostError, match="cannot be reached"):
        async with agentapi_mcp.connect("http://127.0.0.1:9/mcp"):
            pass


@pytest.mark.acceptance
async def test_a_server_that_does_not_start_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLostError, match="agentapi-mcp doctor"):
        async with agentapi_mcp.connect(env={"AGENTAPI_HOME": str(tmp_path), "AGENTAPI_TOOLSETS": "nonsense"}):
            pass


@pytest.mark.acceptance
async def test_the_example_of_the_documentation_answers(edge_home: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    program = tmp_path / "example.py"
    program.write_text(found[1], encoding="utf-8")
    env = {**environment(), "AGENTAPI_HOME": str(edge_home), "AGENTAPI_POSTGRES_LINGER_SECONDS": "10"}
    process = await asyncio.create_subprocess_exec(sys.executable, program, env=env, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert "OPENROUTER_API_KEY" in said.decode()
    assert "[guide, 0.0 USD, session " in said.decode()


def test_the_fields_of_a_turn_are_those_of_the_tools() -> None:
    assert _types(Turn) == _types(TurnOut)
    # Those that no schema names, too.
    for part in ("budget", "estimated_cost_usd", "usage"):
        ours, theirs = (model.model_fields[part].annotation for model in (Turn, TurnOut))
        assert _fields(ours) == _fields(theirs)
    assert Turn.model_fields.keys() == TurnOut.model_fields.keys()


def _fields(annotation: object) -> object:
    """Return the types of the fields of a model, which may be None; a plain type stays as it is."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, OutputModel):
            return {name: _fields(field.annotation) for name, field in each.model_fields.items()}
    return annotation


def _types(model: type[OutputModel]) -> object:
    """Return a schema without titles and descriptions, its parts in place of the references to them."""
    schema = model.model_json_schema()
    parts = as_object(schema.get("$defs"))

    def plain(value: object) -> object:
        if is_list(value):
            return [plain(each) for each in value]
        if not is_object(value):
            return value
        if "$ref" in value:
            return plain(parts[str(value["$ref"]).rpartition("/")[2]])
        return {name: plain(each) for name, each in value.items() if name not in {"title", "description", "$defs"}}

    return plain(schema)


async def test_what_is_thought_of_an_answer_is_said_and_what_happened_elsewhere_recorded(edge_home: Path) -> None:
    options = McpOptions(toolsets=frozenset({"core", "usage"}))
    async with open_edge(edge_home, OpenAIPeer(), options) as edge, over_http(edge) as agents:
        tag = f"tag {uuid4().hex}"
        turn = await agents.chat(f"{uuid4().hex} [[echo]]", agent="droid")
        assert (await agents.rate_turn(turn.turn_id, rating=2, note="made it up")).rating == 2
        rated = await agents.rate_session(turn.session_id, rating=4, usefulness=5)
        assert (rated.turn_id, rated.rating, rated.usefulness) == (None, 4, 5)
        assert (await agents.tag(turn.session_id, add=[tag], kind="coding")).tags == [tag]
        assert [session.session_id for session in await agents.sessions(tag=tag)] == [turn.session_id]
        assert (await agents.archive(turn.session_id)).status == "archived"
        assert await agents.sessions(tag=tag) == []
        [archived] = await agents.sessions(tag=tag, archived=True)
        assert (archived.rating, archived.interaction_type) == (4, "coding")
        assert (await agents.archive(turn.session_id, undo=True)).status == "active"
        recorded = await agents.record_interaction("Code review", external_id=tag, cost_usd=0.0425, tags=["work"])
        assert (recorded.is_new, recorded.cost_usd, recorded.tags) == (True, 0.0425, ["work"])
        with pytest.raises(RefusedError, match="between 1 and 5"):
            await agents.rate_session(turn.session_id, rating=6)
