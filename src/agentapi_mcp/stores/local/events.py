"""Live events of running turns within one process."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

from typing_extensions import override

from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.conversations.models import TurnEnded, TurnEvent
from agentapi_mcp.core.conversations.ports import TurnEvents


class LocalTurnEvents(TurnEvents):
    """One queue per follower; one that never reads costs memory only until its turn ends."""

    def __init__(self) -> None:
        self._followers: dict[TurnId, set[asyncio.Queue[TurnEvent]]] = {}

    @override
    def publish(self, turn_id: TurnId, event: TurnEvent, offset: int) -> None:
        del offset
        for queue in self._followers.get(turn_id, ()):
            queue.put_nowait(event)

    @asynccontextmanager
    @override
    async def follow(self, turn_id: TurnId) -> AsyncGenerator[AsyncIterator[TurnEvent]]:
        # Unbounded, since `publish` must not wait for a slow follower.
        queue: asyncio.Queue[TurnEvent] = asyncio.Queue()
        followers = self._followers.setdefault(turn_id, set())
        followers.add(queue)
        try:
            yield _drain(queue)
        finally:
            followers.discard(queue)
            if not followers:
                self._followers.pop(turn_id, None)

    @override
    def listen(self, turn_id: TurnId, listener: Callable[[int, TurnEvent], None]) -> Callable[[], None]:
        """Do nothing: no events arrive from other processes."""
        del turn_id, listener
        return lambda: None


async def _drain(queue: asyncio.Queue[TurnEvent]) -> AsyncGenerator[TurnEvent]:
    while True:
        event = await queue.get()
        yield event
        if isinstance(event, TurnEnded):
            return
