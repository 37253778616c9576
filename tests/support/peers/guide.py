"""The guide has no agent outside: its case runs it as it is."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentapi_mcp.backends import registry
from agentapi_mcp.core.ports import Backend, BackendHost
from agentapi_mcp.core.records.backends import BackendTurn
from tests.support.peers.cases import BackendCase, Behaviour, Patience, Rig, backend_turn

_NOT_OUTSIDE = "the guide answers from this process: nothing outside it can fail"


@dataclass(frozen=True)
class GuideRig:
    """A guide."""

    backend: Backend

    def turn(self, behaviour: Behaviour) -> BackendTurn:
        """Ask for the one thing it does."""
        assert behaviour is Behaviour.ANSWERS
        return backend_turn("How do I add OpenRouter?", model_id=None)

    async def asked(self) -> None:
        """Nobody else is asked."""

    async def freed(self) -> None:
        """Nobody else is to be freed."""

    async def stop(self) -> None:
        """Nobody else is to be stopped."""


@dataclass(frozen=True)
class GuideCase:
    """How the guide takes part in the contract suite."""

    variants: tuple[str, ...] = ("shipped",)
    secrets: tuple[str, ...] = ()
    unreachable: str | None = _NOT_OUTSIDE

    @property
    def not_applicable(self) -> Mapping[Behaviour, str]:
        """Say what cannot happen; a server that is slow to show its state is tested in tests/backends/test_guide.py."""
        return {behaviour: _NOT_OUTSIDE for behaviour in Behaviour if behaviour is not Behaviour.ANSWERS}

    def in_pieces(self, variant: str) -> bool:
        """Answer in sentences."""
        del variant
        return True

    @asynccontextmanager
    async def open(self, variant: str, host: BackendHost, patience: Patience) -> AsyncGenerator[Rig]:
        """Build a guide."""
        del variant, patience
        yield GuideRig(registry.create("guide", {}, host))


CASE: BackendCase = GuideCase()
