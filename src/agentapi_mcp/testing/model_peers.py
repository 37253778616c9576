"""A peer that selects the behaviour of an HTTP server by the name of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from typing_extensions import override

from agentapi_mcp.core.backends.models import BackendTurn
from agentapi_mcp.testing.http import Exchange, HttpPeer
from agentapi_mcp.testing.peers import BackendDeadlines, Peer, backend_turn

_LIMITS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class ModelPeer(Peer):
    """A running server as the peer of a backend with the options of `wire.options.HttpOptions`.

    `given` holds the options without the deadlines; `model` is the name of a model, with `{}` in place of its word.
    """

    server: HttpPeer
    given: Mapping[str, object]
    model: str = "stub-{}"

    @override
    def options(self, deadlines: BackendDeadlines) -> Mapping[str, object]:
        return {
            **self.given,
            "connect_timeout_seconds": deadlines.connect.total_seconds(),
            "idle_timeout_seconds": deadlines.idle.total_seconds(),
            "total_timeout_seconds": deadlines.total.total_seconds(),
        }

    @override
    def turn(self, word: str) -> BackendTurn:
        return backend_turn(model_id=self.model.format(word))

    @override
    def credentials(self) -> Sequence[str | None]:
        """Return the credential of each POST."""
        return [_credential(exchange) for exchange in self.server.exchanges if exchange.method == "POST"]

    @override
    def limits(self) -> Sequence[int | None]:
        """Return the limit in each POST, under any name that it has in these formats."""
        bodies = [exchange.json for exchange in self.server.exchanges if exchange.method == "POST"]
        return [next((limit for name in _LIMITS if isinstance(limit := body.get(name), int)), None) for body in bodies]

    @override
    async def turn_received(self) -> None:
        await self.server.received()

    @override
    async def freed(self) -> None:
        await self.server.client_gone()

    @override
    async def stop(self) -> None:
        await self.server.stop()


def _credential(exchange: Exchange) -> str | None:
    headers = exchange.headers
    key = headers.get("x-api-key") or headers.get("api-key")
    return key or headers.get("authorization", "").removeprefix("Bearer ") or None
