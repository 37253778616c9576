"""The cases of the built-in backends: `CASE` in `tests/support/peers/<kind>.py`."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from agentapi_mcp.testing.peers import BackendCase, BackendDeadlines, Behaviour, Peer, backend_turn
from tests.support.peers.faults import Expected

__all__ = ["BackendCase", "BackendDeadlines", "Behaviour", "BuiltInCase", "Peer", "backend_turn", "case_of", "has_case"]


class BuiltInCase(BackendCase, Protocol):
    """What a built-in backend supplies beside what the contract needs."""

    @property
    def answer(self) -> str:
        """The whole answer to the word of ANSWERS."""
        ...

    def faults(self, variant: str) -> Mapping[str, Expected]:
        """Return how a turn with each of the peer's words ends for an MCP client."""
        ...


def has_case(kind: str) -> bool:
    """Tell whether a kind supplies a case."""
    return find_spec(f"tests.support.peers.{kind}") is not None


def case_of(kind: str) -> BuiltInCase:
    """Load a kind's case."""
    return cast(BuiltInCase, import_module(f"tests.support.peers.{kind}").CASE)
