"""Whatever an agent does wrong, its caller reads what it was and what to do, and the session goes on.

What each word of a peer comes to stands beside the peer, in tests/support/peers; the program is one for all of them.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from mcp_types import CallToolResult
from typing_extensions import override

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault
from agentapi_mcp.core.keys.mending import Payer
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.peers import FAULTS, BackendDeadlines, Behaviour, Peer
from tests.support.connect import call, connect, fields_of, text_of
from tests.support.peers.cases import BuiltInCase, case_of, has_case
from tests.support.peers.faults import PATIENT, Expected
from tests.support.peers.openai import KEY, OpenAIPeer

NEVER = ("/srv/", "Traceback", "<html", "xxxxx", "Error from provider", "sk-", "127.0.0.1:9")
TIMED = {Behaviour.HANGS, Behaviour.WAITS, Behaviour.DRIPS}
KINDS = registry.builtin_names()
CASES = [case_of(kind) for kind in KINDS if has_case(kind)]


@dataclass(frozen=True)
class Agent:
    """One variant of a kind, as it is declared; `is_default` is the agent that needs no file."""

    case: BuiltInCase
    variant: str
    is_default: bool = False

    @override
    def __str__(self) -> str:
        return "default" if self.is_default else f"{self.case.kind}-{self.variant}"

    def named(self, deadlines: BackendDeadlines) -> str:
        """Name the agent that has these deadlines."""
        times = "-".join(f"{each.total_seconds():g}".replace(".", "_") for each in (deadlines.idle, deadlines.total))
        return f"{self}-{times}"

    @property
    def faults(self) -> Mapping[str, Expected]:
        """How a turn with each word ends."""
        return self.case.faults(self.variant)


DEFAULT = Agent(case_of("openai"), "openrouter-streamed", is_default=True)
AGENTS = [Agent(case, variant) for case in CASES for variant in case.variants]
WORDS = [
    (agent, word, end)
    for agent in (*AGENTS, DEFAULT)
    for word, end in agent.faults.items()
    if end.deadlines == PATIENT or not agent.is_default  # nobody sets the deadlines of the default agent
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_how_each_misbehaviour_ends(kind: str) -> None:
    assert has_case(kind), f"write tests/support/peers/{kind}.py with a CASE"
    case = case_of(kind)
    expected = {word for behaviour, word in case.words.items() if behaviour in {*FAULTS, *TIMED}}
    for variant in case.variants:
        assert expected <= case.faults(variant).keys()


def declaration(agent: Agent, peer: Peer) -> Iterator[str]:
    """Write an agent for each deadlines that the words of a peer need; its models are these words."""
    go_on = agent.case.words[Behaviour.ANSWERS]
    for deadlines in {PATIENT, *(end.deadlines for end in agent.faults.values())}:
        name = agent.named(deadlines)
        yield f'[agents."{name}"]\nbackend = "{agent.case.kind}"\n[agents."{name}".options]'
        for key, value in peer.options(deadlines).items():
            yield f"{key} = {_toml(value)}"
        words = [word for word, end in agent.faults.items() if end.deadlines == deadlines]
        for model_id in {peer.turn(word).model_id for word in (*words, go_on)} - {None}:
            yield f'[[agents."{name}".models]]\nname = "{model_id}"\nmodel_id = "{model_id}"\nprovider = "stub"'


def _toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{key} = {_toml(each)}" for key, each in cast("dict[str, object]", value).items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value)


@dataclass(frozen=True)
class ClientWithPeers:
    """A client of the program, and the running peers by their agents."""

    client: Client
    peers: Mapping[Agent, Peer]

    async def ask(
        self, agent: Agent, word: str, deadlines: BackendDeadlines = PATIENT, **more: object
    ) -> CallToolResult:
        """Have the agent do what the word says."""
        asked: dict[str, object] = {"agent": "droid", "message": f"[[{word}]]"}
        if not agent.is_default:
            turn = self.peers[agent].turn(word)
            asked = {"agent": agent.named(deadlines), "message": turn.message}
            asked |= {} if turn.model_id is None else {"model": turn.model_id}
        return await call(self.client, "chat", wait_seconds=60, **asked, **more)


@asynccontextmanager
async def open_client_with_peers(home: Path, config: Path) -> AsyncGenerator[ClientWithPeers]:
    """Open a client of a program that has an agent for each variant of each kind, beside its running peer."""
    async with AsyncExitStack() as stack:
        agents = [agent for agent in AGENTS if agent.faults]
        peers = {agent: await stack.enter_async_context(agent.case.start(agent.variant)) for agent in agents}
        lines = [line for agent, peer in peers.items() for line in declaration(agent, peer)]
        await asyncio.to_thread(config.write_text, "\n".join(lines), encoding="utf-8")
        router = await stack.enter_async_context(OpenAIPeer())
        environ = {"OPENROUTER_API_KEY": KEY, "AGENTAPI_OPENROUTER_BASE_URL": router.openrouter_url}
        settings = Settings(home=home, config=config, postgres_linger_seconds=20, shutdown_grace_seconds=0)
        app = await stack.enter_async_context(open_app(settings, environ))
        await app.services_provider.services()
        client = await stack.enter_async_context(
            connect(create_server(app.services_provider, McpOptions()), "stdio-2026")
        )
        yield ClientWithPeers(client, peers)


@dataclass(frozen=True)
class Program:
    """The client of one program, on the loop of a thread of its own."""

    portal: BlockingPortal
    connected: ClientWithPeers

    def run(self, work: Callable[[ClientWithPeers], Coroutine[object, object, None]]) -> None:
        """Run a check on that loop."""
        self.portal.call(work, self.connected)


@pytest.fixture(scope="module")
def program(edge_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Return a program for all of these tests.

    A fixture may not hold a cancel scope open, since it is entered and left in two tasks; on the portal it is one task.
    """
    config = tmp_path_factory.mktemp("faults") / "agentapi.toml"
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_client_with_peers(edge_home, config)) as connected,
    ):
        yield Program(portal, connected)


def check_failure(
    result: CallToolResult, end: Expected, fault: BackendFault, secrets: tuple[str, ...], payer: Payer
) -> None:
    turn, text, advice = fields_of(result), text_of(result), FAULT_ADVICE[fault]
    error = cast("Mapping[str, object]", turn["error"])
    retryable = advice.retryable if end.retryable is None else end.retryable
    assert result.is_error
    assert (turn["status"], turn["end_reason"], turn["saved"]) == ("failed", "fault", True)
    assert (error["code"], error["retryable"], error["retry_after_seconds"]) == (fault, retryable, end.retry_after)
    # What is said of the fault, and of the key, of every such turn.
    usual = payer.mends(BackendError(fault, "")) if retryable == advice.retryable else ""
    assert str(error["next_step"]).startswith(usual if end.next_step is None else end.next_step)
    assert text.startswith(f"{error['message']}".rstrip("."))
    assert str(turn["next_step"]) in text
    assert str(turn["next_step"]).startswith(str(error["next_step"]))
    assert ("Try again in" in text) is (end.retry_after is not None)
    assert 0 < len(str(error["message"])) < 400
    everything = result.model_dump_json()
    assert not [word for word in (*NEVER, *secrets) if word in everything]
    assert text.splitlines()[-1].endswith(f"session_id {turn['session_id']} · turn_id {turn['turn_id']}]")


async def check_what_is_kept(client: Client, turn: Mapping[str, object], end: Expected) -> None:
    error = cast("Mapping[str, object]", turn["error"])
    if end.reply is not None:
        assert turn["reply"] == end.reply
    usage = cast("Mapping[str, object]", turn["usage"])
    if end.billed is not None:
        assert (usage["input_tokens"] is not None) is end.billed, usage
    transcript = fields_of(await call(client, "get_transcript", session_id=turn["session_id"]))
    assert str(error["message"]).rstrip(".") in str(transcript["markdown"])
    assert str(error["next_step"]) in str(transcript["markdown"])


async def check_word(agent: Agent, word: str, end: Expected, connected: ClientWithPeers) -> None:
    result = await connected.ask(agent, word, end.deadlines)
    turn = fields_of(result)
    if end.fault is None:
        assert turn["status"] == "completed", text_of(result)
        assert (end.warning or "") in str(turn["warning"])
    else:
        payer = Payer(variables=("OPENROUTER_API_KEY",) if agent.is_default else ())
        check_failure(result, end, end.fault, agent.case.secrets, payer)
        await check_what_is_kept(connected.client, turn, end)
    again = await connected.ask(agent, agent.case.words[Behaviour.ANSWERS], session_id=turn["session_id"])
    assert fields_of(again)["reply"] == agent.case.answer, text_of(again)


@pytest.mark.parametrize(("agent", "word", "end"), [pytest.param(*each, id=f"{each[0]}-{each[1]}") for each in WORDS])
def test_a_fault_is_told_with_its_next_step_and_the_session_goes_on(
    program: Program, agent: Agent, word: str, end: Expected
) -> None:
    program.run(lambda connected: check_word(agent, word, end, connected))
