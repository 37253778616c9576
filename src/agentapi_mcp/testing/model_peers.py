"""A peer whose words are the models of an HTTP server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentapi_mcp.core.backends.models import BackendTurn
from agentapi_mcp.testing.http import Exchange, HttpPeer
from agentapi_mcp.testing.peers import Patience, backend_turn


@dataclass(frozen=True)
class ModelPeer:
    """A running server as the peer of a backend with the options of `wire.options.HttpOptions`.

    `given` holds the options but for the deadlines; `model` is the name of a model, with `{}` where its word stands.
    """

    server: HttpPeer
    given: Mapping[str, object]
    model: str = "stub-{}"

    def options(self, patience: Patience) -> Mapping[str, object]:
        """Return the options with these deadlines."""
        return {
            **self.given,
            "connect_timeout_seconds": patience.connect.total_seconds(),
            "idle_timeout_seconds": patience.idle.total_seconds(),
            "total_timeout_seconds": patience.total.total_seconds(),
        }

    def turn(self, word: str) -> BackendTurn:
        """Make a turn of the word's model."""
        return backend_turn(model_id=self.model.format(word))

    def credentials(self) -> Sequence[str | None]:
        """Read them from what was posted."""
        return [_credential(exchange) for exchange in self.server.exchanges if exchange.method == "POST"]

    async def asked(self) -> None:
        """Wait for the first request."""
        await self.server.received()

    async def freed(self) -> None:
        """Wait for the client of the first request to go."""
        await self.server.client_gone()

    async def stop(self) -> None:
        """End the server."""
        await self.server.stop()


def _credential(exchange: Exchange) -> str | None:
    headers = exchange.headers
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ") or None
