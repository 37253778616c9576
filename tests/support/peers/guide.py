"""The guide has no agent outside: its peer is nothing, and its case runs it as it is."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from agentapi_mcp.core.backends.models import BackendTurn
from agentapi_mcp.testing.peers import BackendDeadlines, Behaviour, Peer, backend_turn
from tests.support.peers.cases import BuiltInCase
from tests.support.peers.faults import Expected

_NOT_OUTSIDE = "the guide answers from this process: nothing outside it can fail"
_QUESTION = "How do I add OpenRouter?"


class NoPeer:
    """Nobody: the guide answers by itself."""

    def options(self, deadlines: BackendDeadlines) -> Mapping[str, object]:
        """Return none: it has no options."""
        del deadlines
        return {}

    def turn(self, word: str) -> BackendTurn:
        """Ask what the word says."""
        return backend_turn(word, model_id=None)

    def credentials(self) -> Sequence[str | None]:
        """Return none: nobody is asked."""
        return []

    def limits(self) -> Sequence[int | None]:
        """Return none: nobody is asked."""
        return []

    async def turn_received(self) -> None:
        """Return at once."""

    async def freed(self) -> None:
        """Return at once."""

    async def stop(self) -> None:
        """Do nothing."""


class GuideCase:
    """Runs the contract suite with the documentation that is shipped."""

    kind = "guide"
    variants = ("shipped",)
    words: Mapping[Behaviour, str] = {Behaviour.ANSWERS: _QUESTION}
    answer = "It depends on the documentation."
    secrets: tuple[str, ...] = ()
    unreachable: str | None = _NOT_OUTSIDE
    bills_refusals: str | None = None
    # A server that is slow to show its state is tested in tests/backends/test_guide.py.
    not_applicable: Mapping[Behaviour, str] = {
        **{behaviour: _NOT_OUTSIDE for behaviour in Behaviour if behaviour is not Behaviour.ANSWERS},
        Behaviour.RECALLS: "the guide answers each question by itself",
    }

    def in_pieces(self, variant: str) -> bool:
        """Answer in sentences."""
        del variant
        return True

    def faults(self, variant: str) -> Mapping[str, Expected]:
        """Tell none."""
        del variant
        return {}

    @asynccontextmanager
    async def start(self, variant: str) -> AsyncGenerator[Peer]:
        """Start nothing."""
        del variant
        yield NoPeer()


CASE: BuiltInCase = GuideCase()
