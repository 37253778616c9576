"""A key that the caller brought: sent in place of the operator's to their address, and hidden like it."""

from dataclasses import replace
from typing import cast

import pytest
from pydantic import SecretStr

from agentapi_mcp.backends import registry
from agentapi_mcp.core.errors import BackendError, BackendFault
from agentapi_mcp.core.ports import Backend, Capability
from agentapi_mcp.core.records.backends import BackendTurn
from tests.support.hosts import FakeHost
from tests.support.peers import anthropic, openai
from tests.support.peers.cases import Behaviour, Patience, case_of
from tests.support.peers.http import HttpPeer

OWN = SecretStr("own-0123456789-canary")
TAKES_THEM = ("anthropic", "openai")
HEADERS = {"anthropic": "x-api-key", "openai": "authorization"}
OPERATORS = {"anthropic": anthropic.KEY, "openai": openai.KEY}
PLACES = [(kind, variant) for kind in TAKES_THEM for variant in case_of(kind).variants]


async def end(backend: Backend, turn: BackendTurn) -> list[object]:
    return [event async for event in backend.run(turn)]


@pytest.mark.parametrize(("kind", "variant"), PLACES)
async def test_a_turn_with_a_key_is_asked_with_it_and_the_next_one_is_not(kind: str, variant: str) -> None:
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        assert Capability.OWN_KEYS in rig.backend.capabilities
        turn = rig.turn(Behaviour.ANSWERS)
        said = await end(rig.backend, replace(turn, api_key=OWN))
        await end(rig.backend, turn)
        peer = cast("HttpPeer", getattr(rig, "peer"))  # noqa: B009  # both rigs have one
        sent = [exchange.headers[HEADERS[kind]].removeprefix("Bearer ") for exchange in peer.exchanges]
        assert sent == [OWN.get_secret_value(), OPERATORS[kind]]
        assert OPERATORS[kind] not in str(peer.exchanges[0].headers)
        assert "canary" not in repr((said, turn, replace(turn, api_key=OWN)))


@pytest.mark.parametrize(("kind", "variant"), PLACES)
async def test_a_provider_that_repeats_the_key_gives_it_away_to_nobody(kind: str, variant: str) -> None:
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        with pytest.raises(BackendError) as refused:
            await end(rig.backend, replace(rig.turn(Behaviour.LEAKS), api_key=OWN))
        assert refused.value.fault is BackendFault.AUTH
        assert "canary" not in str(refused.value)
        assert "hidden" in str(refused.value)


@pytest.mark.parametrize("kind", TAKES_THEM)
@pytest.mark.parametrize(
    "options", [{"own_keys": False}, {"headers": {"Authorization": "Bearer x"}}, {"headers": {"X-Api-Key": "x"}}]
)
async def test_an_agent_takes_none_where_the_operator_says_no_or_has_a_header_for_it(
    kind: str, options: dict[str, object]
) -> None:
    async with FakeHost() as host:
        backend = registry.create(kind, {"base_url": "http://127.0.0.1:9/v1"} | options, host)
        assert Capability.OWN_KEYS not in backend.capabilities


async def test_the_credentials_of_google_are_not_replaced() -> None:
    async with FakeHost() as host:
        backend = registry.create("openai", {"base_url": "http://127.0.0.1:9/v1", "auth": "google"}, host)
        assert Capability.OWN_KEYS not in backend.capabilities


@pytest.mark.parametrize("kind", sorted(set(registry.builtin_names()) - set(TAKES_THEM) - {"droid"}))
async def test_no_other_backend_takes_them(kind: str) -> None:
    async with FakeHost() as host:
        assert Capability.OWN_KEYS not in registry.create(kind, {}, host).capabilities
