"""Every error has its own code, its advice and its exit status."""

from agentapi_mcp.cli.outputs import EXIT_STATUS
from agentapi_mcp.core.errors import FAULT_ADVICE, AgentApiError, BackendFault


def leaves(kind: type[AgentApiError]) -> list[type[AgentApiError]]:
    """List the classes below one that have none below themselves."""
    below = kind.__subclasses__()
    return [leaf for one in below for leaf in leaves(one)] if below else [kind]


def test_every_leaf_has_its_own_code() -> None:
    codes = [leaf.code for leaf in leaves(AgentApiError)]
    assert len(codes) == len(set(codes))
    assert AgentApiError.code not in codes


def test_every_fault_has_advice() -> None:
    assert set(FAULT_ADVICE) == set(BackendFault)
    assert all(advice.next_step for advice in FAULT_ADVICE.values())


def test_every_leaf_has_an_exit_status_of_its_family() -> None:
    families = [kind for kind, _ in EXIT_STATUS if kind is not AgentApiError]
    assert [leaf for leaf in leaves(AgentApiError) if not issubclass(leaf, tuple(families))] == []
