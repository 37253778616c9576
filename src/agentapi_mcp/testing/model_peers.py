"""A peer that selects the behaviour of an HTTP server by the name of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentapi_mcp.core.backends.models import BackendTurn
from agentapi_mcp.testing.http import Exchange, HttpPeer
from agentapi_mcp.testing.peers import BackendDeadlines, backend_turn


@dataclass(frozen=True)
class ModelPeer:
    """A running server as the peer of a backend with the options of `wire.options.HttpOptions`.

    `given` holds the options without the deadlines; `model` is the name of a model, with `{}` in place of its word.
    """

    server: HttpPeer
    given: Mapping[str, object]
    model: str = "stub-{}"

    def options(self, deadlines: BackendDeadlines) -> Mapping[str, object]:
        """Return the options with these deadlines."""
        return {
            **self.given,
            "connect_timeout_seconds": deadlines.connect.total_seconds(),
            "idle_timeout_seconds": deadlines.idle.total_seconds(),
            "total_timeout_seconds": deadlines.total.total_seconds(),
        }

    def turn(self, word: str) -> BackendTurn:
        """Build a turn for the model of the word."""
        return backend_turn(model_id=self.model.format(word))

    def credentials(self) -> Sequence[str | None]:
        """Return the credential of each POST."""
        return [_credential(exchange) for exchange in self.server.exchanges if exchange.method == "POST"]

    async def turn_received(self) -> None:
        """Wait for the first request."""
        await self.server.received()

    async def freed(self) -> None:
        """Wait until the client of the first request disconnects."""
        await self.server.client_gone()

    async def stop(self) -> None:
        """Stop the server."""
        await self.server.stop()


def _credential(exchange: Exchange) -> str | None:
    headers = exchange.headers
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ") or None
