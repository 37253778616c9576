"""The pages on providers: their TOML, tried against a peer that speaks as the provider and refuses what it refuses."""

import re
import tomllib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import cast

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.cli.agent_blocks import NewAgent, agent_block
from agentapi_mcp.cli.providers import PROVIDERS
from agentapi_mcp.core.backends.events import BackendEvent, Finished, StopReason, TextDelta, ThoughtDelta, UsageReported
from agentapi_mcp.core.backends.models import BackendTurn, HealthStatus, HistoryMessage, MessageRole, OfferedModel
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.core.catalogue.models import AgentDeclaration
from agentapi_mcp.stores.local.catalogue_files import load_catalogue
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import backend_turn
from tests.support.peers.google import TokenPeer
from tests.support.peers.provider_clouds import CLOUDS
from tests.support.peers.provider_servers import SERVERS
from tests.support.peers.provider_ways import GOOGLES, KEY, TEXT, ProviderPeer, Refusal, Ways

PAGES = Path(__file__).resolve().parents[2] / "docs" / "providers"
WAYS = CLOUDS | SERVERS
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
ORIGIN = re.compile(r'(base_url = ")https?://[^/"]+')
DECLARED = [(name, place) for name, rows in sorted(WAYS.items()) for place in range(len(rows))]
REFUSED = [(name, place, refusal) for name, place in DECLARED for refusal in WAYS[name][place].refusals]


@dataclass(frozen=True)
class BackendSetup:
    """A provider, and the agent of its page beside it."""

    peer: ProviderPeer
    agent: AgentDeclaration
    backend: Backend

    async def ask(self, turn: BackendTurn | None = None, temperature: float | None = 0.5) -> list[BackendEvent]:
        """Ask the agent's model, or that of the turn if there is no such model."""
        model = self.agent.models[0]
        asked = replace(
            turn or backend_turn(),
            model_id="gone" if turn is not None and turn.model_id == "gone" else model.model_id,
            system="Answer briefly.",
            history=(HistoryMessage(MessageRole.USER, "Hi."), HistoryMessage(MessageRole.ASSISTANT, "Hello.")),
            temperature=temperature,
            max_tokens=100,
        )
        return [event async for event in self.backend.run(asked)]


def blocks_of(name: str) -> list[str]:
    """Return the TOML blocks of a page that declare an agent whole."""
    return [each for each in BLOCK.findall((PAGES / f"{name}.md").read_text(encoding="utf-8")) if "base_url" in each]


def options_in(block: str) -> dict[str, object]:
    """Return the options of the agent that some TOML declares."""
    agents = cast("dict[str, dict[str, dict[str, object]]]", tomllib.loads(block)["agents"])
    return next(iter(agents.values()))["options"]


@asynccontextmanager
async def open_page(
    ways: Ways, block: str, folder: Path, changes: Mapping[str, object] | None = None
) -> AsyncGenerator[BackendSetup]:
    """Load the configuration of a page, whose addresses become the peer's; `changes` replace options."""
    async with ProviderPeer(ways) as peer, FakeHost() as host:
        path = folder / "agentapi.toml"
        moved = ORIGIN.sub(lambda match: match[1] + peer.origin, block)
        path.write_text(f"use_defaults = false\n{moved}", encoding="utf-8")
        variables = dict.fromkeys(re.findall(r"\$\{(\w+)", block), KEY)
        (agent,) = load_catalogue([path], variables, registry.names).agents
        assert agent.missing == ()
        changed = {
            name: value.format(origin=peer.origin) if isinstance(value, str) else value
            for name, value in (changes or {}).items()
        }
        yield BackendSetup(peer, agent, registry.create(agent.backend, {**agent.options, **changed}, host))


@pytest.fixture(autouse=True)
async def googles_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncGenerator[None]:
    """Have application-default credentials, of which each test gets the first token."""
    async with TokenPeer() as tokens:
        tokens.write_key_file(tmp_path / "key.json")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        yield


def joined(events: list[BackendEvent], kind: type[TextDelta | ThoughtDelta]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def test_every_page_has_its_rows_and_every_row_its_page() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"index"}
    assert {name: len(blocks_of(name)) for name in pages} == {name: len(rows) for name, rows in WAYS.items()}
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[.*?\]\((\w+)\.md\)", index, re.MULTILINE)) == pages


def written_by_agents_add(name: str, place: int) -> str:
    """Return the block that `agents add` writes for a provider, at the address of the page."""
    provider, ways = PROVIDERS[name], WAYS[name][place]
    return agent_block(
        NewAgent(
            name="added",
            provider_name=name,
            provider=provider,
            base_url=provider.base_url or str(options_in(blocks_of(name)[place])["base_url"]),
            key_variable=provider.key_variable,
            models=[OfferedModel(model_id=ways.model)],
            day=date(2026, 11, 29),
        )
    )


@pytest.mark.parametrize(("name", "place"), DECLARED)
def test_the_page_declares_what_agents_add_writes(name: str, place: int) -> None:
    options = options_in(blocks_of(name)[place])
    assert options["provider"] == name
    assert (name in PROVIDERS) == (name != "vertex"), "its page says that agents add does not know it"
    if name in PROVIDERS:
        assert PROVIDERS[name].page == f"docs/providers/{name}.md"
        added = options_in(written_by_agents_add(name, place))
        assert {key: options.get(key) for key in added} == added


@pytest.mark.parametrize(("name", "place"), [each for each in DECLARED if each[0] in PROVIDERS])
async def test_the_agent_that_agents_add_writes_is_answered(name: str, place: int, tmp_path: Path) -> None:
    async with open_page(WAYS[name][place], written_by_agents_add(name, place), tmp_path) as it:
        assert joined(await it.ask(temperature=None), TextDelta) == TEXT


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("name", "place"), DECLARED)
async def test_the_agent_of_the_page_is_answered(name: str, place: int, tmp_path: Path, *, stream: bool) -> None:
    ways = WAYS[name][place]
    async with open_page(ways, blocks_of(name)[place], tmp_path, {"stream": stream}) as it:
        events = await it.ask()
        check = await it.backend.check()
    assert joined(events, TextDelta) == TEXT
    assert joined(events, ThoughtDelta) == ways.thought
    assert [event.usage for event in events if isinstance(event, UsageReported)][-1] == ways.usage
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.stop_reason, end.warning, end.provider) == (StopReason.END, None, ways.served_by)
    assert check.status is ways.health


@pytest.mark.parametrize(("name", "place", "refusal"), REFUSED)
async def test_what_the_provider_refuses_is_told_with_its_reason(
    name: str, place: int, refusal: str, tmp_path: Path
) -> None:
    ways = WAYS[name][place]
    expected: Refusal = ways.refusals[refusal]
    async with open_page(ways, blocks_of(name)[place], tmp_path, expected.options) as it:
        it.peer.has_revoked_the_key = refusal == "key"
        is_said = refusal not in {"key", "model", "path"} and not expected.options
        turn = backend_turn(f"[[{refusal}]]" if is_said else "hello", "gone" if refusal == "model" else "stub")
        with pytest.raises(BackendError) as caught:
            await it.ask(turn)
    error = caught.value
    delay = None if expected.retry_after is None else timedelta(seconds=expected.retry_after)
    assert (error.fault, error.retry_after) == (expected.fault, delay)
    assert expected.says in str(error)
    assert str(error).startswith(f"{name} says: ")
    assert expected.hint in (error.next_step or "")
    assert not {KEY, GOOGLES} & set(str(error).split())


@pytest.mark.parametrize(("name", "place", "refusal"), [each for each in REFUSED if each[2] in {"key", "path"}])
async def test_a_wrong_key_or_address_is_told_without_a_turn(
    name: str, place: int, refusal: str, tmp_path: Path
) -> None:
    ways = WAYS[name][place]
    expected = ways.refusals[refusal]
    async with open_page(ways, blocks_of(name)[place], tmp_path, expected.options) as it:
        it.peer.has_revoked_the_key = refusal == "key"
        check = await it.backend.check()
    # A server need not list its models; which it says by its status.
    is_absent = expected.fault is BackendFault.NOT_FOUND and expected.status != 200
    assert check.status is (HealthStatus.UNKNOWN if is_absent else HealthStatus.UNHEALTHY)
    assert expected.says in (check.error or "")
