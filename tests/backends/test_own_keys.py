"""Which backends ask with a key that the caller brought; that it is sent and hidden is in the contract of all."""

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.testing.contract import open_rig
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.peers.cases import case_of, has_case

TAKES_THEM = ("anthropic", "openai")
# A kind without a case is reported by test_contract.py, not by a failed import of this module.
KINDS = [kind for kind in registry.builtin_names() if has_case(kind)]
VARIANTS = [(kind, variant) for kind in KINDS for variant in case_of(kind).variants]


@pytest.mark.parametrize(("kind", "variant"), VARIANTS)
async def test_the_backends_that_take_them_are_these(kind: str, variant: str) -> None:
    async with open_rig(case_of(kind), variant) as rig:
        assert rig.declares(Capability.OWN_KEYS) is (kind in TAKES_THEM)


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


@pytest.mark.parametrize("more", [{}, {"own_keys": False}])
async def test_the_credentials_of_google_are_replaced_by_the_token_of_an_account_alone(more: dict[str, object]) -> None:
    async with FakeHost() as host:
        backend = registry.create("openai", {"base_url": "http://127.0.0.1:9/v1", "auth": "google"} | more, host)
        assert Capability.OWN_KEYS not in backend.capabilities
        assert (Capability.OWN_ACCOUNTS in backend.capabilities) is (more == {})


@pytest.mark.parametrize(("kind", "variant"), VARIANTS)
async def test_the_backends_that_take_tokens_of_accounts_are_these(kind: str, variant: str) -> None:
    async with open_rig(case_of(kind), variant) as rig:
        assert rig.declares(Capability.OWN_ACCOUNTS) is (kind == "openai")
