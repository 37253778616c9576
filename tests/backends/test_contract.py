"""Every built-in backend keeps the contract (agentapi_mcp.testing), beside its peer in tests/support/peers."""

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.testing.contract import BackendContract
from tests.support.peers.cases import case_of, has_case

KINDS = registry.builtin_names()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_part_in_the_contract(kind: str) -> None:
    assert has_case(kind), f"write tests/support/peers/{kind}.py with a CASE"
    assert case_of(kind).kind == kind
    assert case_of(kind).variants


@pytest.mark.timeout(120)  # it waits for agents that are given up after seconds
class TestBuiltIns(BackendContract):
    """The kinds of the registry."""

    cases = tuple(case_of(kind) for kind in KINDS if has_case(kind))
