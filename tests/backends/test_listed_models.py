"""The list of a provider's models is asked for as the agent itself is asked: same address, same credential."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
from typing_extensions import override

from agentapi_mcp.app.providers import offered_models
from agentapi_mcp.backends import registry
from agentapi_mcp.backends.wire.model_lists import read_models
from agentapi_mcp.base.errors import BackendError, BackendFault, ConfigurationError
from agentapi_mcp.cli import agent_files
from agentapi_mcp.cli.providers import Provider
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.backends.ports import Backend, ModelLister
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from tests.support.peers.entra import EntraPeer

KEY = "sk-right-0123456789"
OF_THE_CONNECTION = {"host", "connection"}


class Listing(HttpPeer):
    """Lists two models to everybody; with a key, to who has it in any header."""

    def __init__(self, key: str | None = None) -> None:
        super().__init__()
        self.key = key

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        if self.key is not None and not any(self.key in value for value in exchange.headers.values()):
            await answer.json(401, {"error": {"message": "Incorrect API key provided."}})
        else:
            await answer.json(200, {"data": [{"id": "small", "max_model_len": 8192}, {"id": "large"}]})


@asynccontextmanager
async def opened(kind: str, peer: Listing, path: str, **options: object) -> AsyncGenerator[Backend]:
    async with FakeHost() as host:
        yield registry.create(kind, {"base_url": peer.origin + path, **options}, host)


@pytest.mark.parametrize(
    ("kind", "path", "options"),
    [
        ("openai", "/v1", {}),
        ("openai", "/v1", {"api_key": KEY}),
        ("openai", "/v1", {"api_key": KEY, "api_key_header": "x-goog-api-key"}),
        ("openai", "/v1", {"api_key": KEY, "headers": {"x-tenant": "acme"}}),
        ("openai", "/v1/chat/completions", {"api_key": KEY}),
        ("anthropic", "", {"api_key": KEY}),
        ("anthropic", "", {"api_key": KEY, "api_key_header": "authorization", "version": "2024-01-01"}),
        ("anthropic", "/v1/messages", {"headers": {"x-tenant": "acme"}}),
    ],
)
async def test_models_are_listed_as_the_agent_is_checked(kind: str, path: str, options: dict[str, object]) -> None:
    async with Listing() as peer, opened(kind, peer, path, **options) as backend:
        assert (await backend.check()).status is HealthStatus.HEALTHY
        assert isinstance(backend, ModelLister)
        assert len(await backend.offered_models()) == 2
        [checked, listed] = peer.exchanges
    assert listed.path.replace("limit=1000", "limit=1") == checked.path
    assert [(name, value) for name, value in listed.headers.items() if name not in OF_THE_CONNECTION] == [
        (name, value) for name, value in checked.headers.items() if name not in OF_THE_CONNECTION
    ]


async def test_models_are_listed_with_a_token_of_client_credentials() -> None:
    async with Listing() as peer, EntraPeer() as entra:
        options = {"base_url": f"{peer.origin}/openai/v1", "client_credentials": entra.credentials}
        models = await offered_models("openai", options, {})
        given = peer.exchanges[0].headers["authorization"]
    assert [(each.model_id, each.context_window) for each in models] == [("small", 8192), ("large", None)]
    assert given.startswith("Bearer ")
    assert len(given) > len("Bearer ")


async def test_a_backend_without_a_list_says_so() -> None:
    with pytest.raises(ConfigurationError, match="of the kind guide have no list of models"):
        await offered_models("guide", {}, {})


async def test_a_list_is_no_list_where_there_is_another_api() -> None:
    class Page(HttpPeer):
        @override
        async def answer(self, exchange: Exchange, answer: Answer) -> None:
            await answer.json(200, {"hello": "there"})

    async with Page() as peer:
        for kind in ("openai", "anthropic"):
            with pytest.raises(BackendError) as refused:
                await offered_models(kind, {"base_url": peer.origin}, {})
            assert refused.value.fault is BackendFault.BAD_REPLY


async def test_a_local_server_that_wants_a_key_is_said_to_answer() -> None:
    async with Listing(KEY) as peer:
        here = Provider(title="Here", base_url=f"{peer.origin}/v1", key_variable="HERE_KEY")
        at = f"answers at {here.base_url}"
        assert await agent_files.state_of("here", here, {}) == f"{at}, and wants a key: HERE_KEY is not set"
        assert await agent_files.state_of("here", here, {"HERE_KEY": "other"}) == f"{at}, and refuses HERE_KEY"
        assert await agent_files.state_of("here", here, {"HERE_KEY": KEY}) == f"{at}: small, large"
        nameless = Provider(title="Here", base_url=here.base_url)
        assert await agent_files.state_of("here", nameless, {}) == f"{at}, and wants a key (--key-env NAME)"


def test_the_prices_of_a_list_are_those_of_a_million_tokens() -> None:
    pricing = {"prompt": "0.000003", "completion": "0.000015", "input_cache_read": "3e-7", "input_cache_write": 0}
    (model,) = read_models({"data": [{"id": "m", "pricing": {**pricing, "request": "0", "image": "-1"}}]})
    assert (model.input_price, model.output_price) == (3, 15)
    assert (model.cached_price, model.cache_write_price) == (Decimal("0.3"), 0)
