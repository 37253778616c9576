"""What a turn costs whose provider names no cost: by the model's own prices, else by the list, else unknown."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.catalogue.price_list import shipped_prices
from agentapi_mcp.core.conversations.models import Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.support.clocks import QuickClock
from tests.support.peers.droid import droid_peer
from tests.support.peers.openai import OpenAIPeer

LONG, NOW = timedelta(seconds=25), timedelta(0)
# The peer counts 11 tokens in, 4 of them from the cache, and 5 out.
OWN = "prices = { input = 1, output = 2, cached_input = 0.5, source = 'our contract', on = 2026-07-01 }"
DEARER = OWN.replace("input = 1", "input = 1_000")
OWN_BILL = (Decimal("0.000019"), "our contract of 2026-07-01")


def agents(peer: OpenAIPeer, name: str, provider: str, prices: str) -> str:
    return f"""
[agents.{name}]
backend = "openai"
options = {{ base_url = "{peer.origin}/v1", api_key = "none", provider = "{provider}" }}
[[agents.{name}.models]]
name = "m"
model_id = "gpt-5.4-mini"
provider = "{provider}"
{prices}
"""


@asynccontextmanager
async def program(home: Path, folder: Path, text: str) -> AsyncGenerator[Services]:
    """Open the program with these agents."""
    (folder / "agentapi.toml").write_text(text, encoding="utf-8")
    settings = Settings(home=home, config=folder / "agentapi.toml", postgres_linger_seconds=20)
    async with open_app(settings, {}, clock=QuickClock()) as app:
        yield await app.services_provider.services()


def bill(turn: Turn) -> tuple[Decimal | None, str | None]:
    return turn.bill.usage.cost_usd, turn.bill.cost_source


async def own_price(server: Services, agent: str) -> Decimal | None:
    (model,) = (await server.agents.get(server.principal, agent)).models
    return model.prices.input


@pytest.mark.parametrize(("provider", "prices"), [("openai", ""), ("openai", OWN), ("house", OWN), ("house", "")])
async def test_own_prices_win_and_without_any_the_list_counts_if_it_has_the_model(
    provider: str, prices: str, edge_home: Path, tmp_path: Path
) -> None:
    listed = shipped_prices().prices("openai", "gpt-5.4-mini", datetime.now(UTC))
    assert listed is not None
    assert listed.input is not None
    assert listed.output is not None
    assert listed.cached_input is not None
    by_list = (7 * listed.input + 4 * listed.cached_input + 5 * listed.output) / 1_000_000
    expected = (
        OWN_BILL if prices else (by_list, f"genai-prices of {listed.on}") if provider == "openai" else (None, None)
    )
    name = f"z{uuid4().hex[:10]}"
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, agents(peer, name, provider, prices)) as server:
        turn = await server.turns.chat(server.principal, ChatRequest(message="hello", agent=name), wait=LONG)
        assert bill(turn) == expected
        assert bill(await server.turns.get(server.principal, str(turn.id), wait=NOW)) == expected
        assert await own_price(server, name) == (1 if prices else listed.input if provider == "openai" else None)


async def test_a_price_that_changes_while_the_answer_comes_is_that_of_the_next_turn(
    edge_home: Path, tmp_path: Path
) -> None:
    name, steps = f"z{uuid4().hex[:10]}", Steps()
    async with (
        OpenAIPeer(pace=steps) as peer,
        program(edge_home, tmp_path, agents(peer, name, "house", OWN)) as server,
    ):
        first = ChatRequest(message="[[slow]] [[chunks2]]", agent=name)
        running = await server.turns.chat(server.principal, first, wait=NOW)
        await peer.received(1)
        (tmp_path / "agentapi.toml").write_text(agents(peer, name, "house", DEARER), encoding="utf-8")
        async with asyncio.timeout(25):
            while await own_price(server, name) != 1_000:
                pass
        steps.release(20)
        assert bill(await server.turns.get(server.principal, str(running.id), wait=LONG)) == OWN_BILL
        later = await server.turns.chat(server.principal, ChatRequest(message="hello", agent=name), wait=LONG)
        assert bill(later) == (Decimal("0.007012"), OWN_BILL[1])


@pytest.mark.parametrize(
    ("listed", "own", "size", "expected"),
    [
        (None, OWN, 4_000, "0.003"),  # 1,000 tokens at $1, and 1,000 at $2
        (None, OWN.replace("}", ", reasoning = 5 }"), 4_000, "0.006"),  # all of the answer may be reasoning
        (None, "", 4_000, None),
        ("gemini-2.5-pro", "", 4_000, "0.01125"),  # at $1.25 and $10
        ("gemini-2.5-pro", "", 1_000_000, "0.64"),  # above 200,000 tokens at $2.50 and $15
    ],
)
async def test_an_estimate_is_of_the_prices_that_the_bill_will_have(
    listed: str | None, own: str, size: int, expected: str | None, edge_home: Path, tmp_path: Path
) -> None:
    name = f"z{uuid4().hex[:10]}"
    async with OpenAIPeer() as peer:
        text = agents(peer, name, "google" if listed else "house", own).replace("gpt-5.4-mini", listed or "m-1")
        async with program(edge_home, tmp_path, text) as server:
            asked = ChatRequest(message="x" * size, agent=name, parameters=Parameters(max_tokens=1_000))
            said = await server.turns.estimate(server.principal, asked)
            assert said.estimate.cost_usd == (None if expected is None else Decimal(expected))
        # Nothing is asked for it.
        assert not any(each.path.endswith("completions") for each in peer.exchanges)


async def test_an_agent_whose_answers_no_limit_bounds_has_no_estimate(edge_home: Path, tmp_path: Path) -> None:
    name = f"z{uuid4().hex[:10]}"
    async with OpenAIPeer() as peer:
        text = agents(peer, name, "house", OWN).replace('"none", ', '"none", omit_parameters = ["max_tokens"], ')
        async with program(edge_home, tmp_path, text) as server:
            asked = ChatRequest(message="hello", agent=name, parameters=Parameters(max_tokens=1))
            said = await server.turns.estimate(server.principal, asked)
            assert (said.estimate.cost_usd, said.estimate.reserved_usd) == (None, Decimal("0.1"))


async def test_the_estimate_of_a_lent_model_has_the_pages_that_it_reads(edge_home: Path, tmp_path: Path) -> None:
    name = f"z{uuid4().hex[:10]}"
    async with OpenAIPeer() as peer, program(edge_home, tmp_path, agents(peer, name, "house", OWN)) as server:
        asked = ChatRequest(
            message="How do I set a budget?",
            agent="guide",
            model=f"{name}/m",
            parameters=Parameters(max_tokens=1_000, system_prompt="x" * 100_000),
        )
        said = (await server.turns.estimate(server.principal, asked)).estimate.cost_usd
        await server.turns.chat(server.principal, asked, wait=LONG)
        [sent] = [each.content for each in peer.exchanges if each.path.endswith("completions")]
        # At $1 and $2 for a million tokens: what it was sent, a thousand tokens of an answer, and no instructions.
        assert len(sent) > 4_000
        assert said is not None
        assert Decimal(len(sent)) / 4 / 1_000_000 + Decimal("0.002") <= said < Decimal("0.02")


async def test_a_max_tokens_that_an_agent_never_hears_of_bounds_no_estimate(edge_home: Path, tmp_path: Path) -> None:
    name = f"z{uuid4().hex[:10]}"
    async with droid_peer() as cli:
        command = json.dumps(cli.given["command"])
        text = f"""
[agents.{name}]
backend = "droid"
options = {{ command = {command} }}
[[agents.{name}.models]]
name = "m"
model_id = "custom:answer"
provider = "house"
max_output_tokens = 1_000
{OWN}
"""
        async with program(edge_home, tmp_path, text) as server:
            asked = ChatRequest(message="x" * 4_000, agent=name, parameters=Parameters(max_tokens=1))
            said = await server.turns.estimate(server.principal, asked)
    assert (said.estimate.cost_usd, said.estimate.reserved_usd) == (None, Decimal("0.1"))


async def test_no_answer_is_reserved_for_that_is_longer_than_its_model_can_hold(
    edge_home: Path, tmp_path: Path
) -> None:
    name = f"z{uuid4().hex[:10]}"
    async with OpenAIPeer() as peer:
        text = agents(peer, name, "house", f"context_window = 10_000\n{OWN}")
        async with program(edge_home, tmp_path, text) as server:
            asked = ChatRequest(message="x" * 4_000, agent=name, parameters=Parameters(max_tokens=10_000_000))
            said = await server.turns.estimate(server.principal, asked)
    assert said.estimate.cost_usd == Decimal("0.021")  # 1,000 tokens at $1, and 10,000 at $2
