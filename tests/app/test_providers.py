"""The list of models of a provider, who may say anything in it: the rest of it is written."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import strategies as st
from typing_extensions import override

from agentapi_mcp.app.providers import OfferedModel, agents_of, offered_models
from agentapi_mcp.cli.agent_blocks import NewAgent, agent_block
from agentapi_mcp.cli.providers import PROVIDERS
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from tests.support.hostile import TEXTS, holds

SMALL = {"id": "small", "context_length": 8192, "pricing": {"prompt": "0.0000025", "completion": "0.00001"}}
KEYS = ("id", "context_length", "max_completion_tokens", "top_provider", "pricing", "prompt", "completion")
ODD = st.sampled_from(["1e1000000", "1e400", "1e-1000000", "-1", "NaN", 10**40, 1e308, "i" * 300, "a\ud800b", "a\0b"])


class Lister(HttpPeer):
    """Lists these models."""

    models: object = ()

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        await answer.json(200, {"data": self.models})


def written(models: tuple[OfferedModel, ...], url: str) -> str:
    """Return the agent that `agents add` writes of a list."""
    agent = NewAgent(
        name="stub",
        provider_name="ollama",
        provider=PROVIDERS["ollama"],
        base_url=url,
        key_variable=None,
        models=models,
        day=date(2026, 1, 1),
    )
    return agent_block(agent)


async def test_a_list_of_any_models_can_be_written() -> None:
    async with Lister() as peer:

        async def check(each: Mapping[str, object]) -> None:
            peer.models = [SMALL, each]
            found = {
                model.model_id: model for model in await offered_models("openai", {"base_url": f"{peer.origin}/v1"}, {})
            }
            assert "small" in found
            text = written(tuple(found.values()), peer.origin)
            (agent,) = agents_of(text, {"A": "secret"}, called="It")
            assert [model.model_id for model in agent.models] == list(found)
            assert len(text) < 2_000

        fields = st.dictionaries(
            st.sampled_from(KEYS),
            ODD | st.dictionaries(st.sampled_from(KEYS), ODD) | st.none() | st.integers(-(10**30), 10**30) | TEXTS,
            max_size=3,
        )
        named = st.tuples(fields, TEXTS | ODD | st.just("${A}")).map(lambda both: {**both[0], "id": both[1]})
        await holds(named, check, examples=25, also=[{"id": "b", "pricing": {"prompt": "1e1000000"}}])


@pytest.mark.parametrize(
    ("fields", "window", "price"),
    [
        ({"context_length": 10**40}, None, None),
        ({"context_length": 10**40, "context_window": 4096}, 4096, None),
        ({"context_length": 1_000_000_000, "pricing": {"prompt": "1"}}, 1_000_000_000, Decimal(1_000_000)),
        ({"pricing": {"prompt": "1.01"}}, None, None),
        ({"pricing": {"prompt": "0"}}, None, Decimal(0)),
        ({"pricing": {"prompt": "1e-1000000"}}, None, None),
    ],
)
async def test_a_number_that_is_not_plausible_is_unknown(
    fields: dict[str, object], window: int | None, price: Decimal | None
) -> None:
    async with Lister() as peer:
        peer.models = [{"id": "x", **fields}, {"id": "i" * 256}, {"id": "a\nb"}, {"id": "models/i"}]
        found = await offered_models("openai", {"base_url": f"{peer.origin}/v1"}, {})
    assert [(model.model_id, model.context_window, model.input_price) for model in found] == [
        ("x", window, price),
        ("i", None, None),
    ]
