"""An answer that is being written: its pieces, and then its turn with the bill."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentapi_mcp.client.errors import ClientError, ConnectionLostError, TurnError
from agentapi_mcp.client.turns import Turn
from agentapi_mcp.client.wire import Wire
from agentapi_mcp.presentation.models import CancelOut

T = TypeVar("T")
_RUNNING = frozenset({"running", "input_required"})


@dataclass(slots=True)
class Answer:
    """The answer of an agent. Iterate over its pieces, or await its turn; both as often as wanted, in any order.

    The pieces, joined, are the reply, to the letter. The turn has the bill: `cost_usd`, tokens, latency; its fields are
    those of the tool `chat`. Nothing is sent before the first piece or the turn is asked for, and the message is sent
    once, however often.

    Raises, where it is iterated over or awaited:
        RefusedError: the server refused the message.
        TurnError: the turn ended without a whole answer. It comes after the pieces of what was said.
        ConnectionLostError: the server is gone, or the wait for this answer was given up before.
    """

    wire: Wire = field(repr=False)
    tool: str
    arguments: Mapping[str, object] = field(repr=False)
    turn_id: str | None = None  # known from soon after the message was sent
    known: int = 0  # how many characters of the reply do not come, since the program has them
    text: str = ""  # what has come so far
    is_begun: bool = False  # whether the server has answered once: the turn runs, or has ended
    _asking: asyncio.Task[Turn | Exception] | None = field(default=None, repr=False)
    _more: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def __aiter__(self) -> AsyncGenerator[str]:
        """Yield the pieces of the reply as they come."""
        given, asking = 0, self._begin()
        while True:
            if given < len(self.text):
                piece, given = self.text[given:], len(self.text)
                yield piece
            elif asking.done():
                break
            else:
                await self._stopping(self._more.wait())
        await self

    def __await__(self) -> Generator[Any, None, Turn]:
        """Return the turn when it has ended."""
        return self._whole().__await__()

    async def cancel(self) -> CancelOut:
        """Stop the agent, and return what became of the turn; what it said so far is kept, and billed.

        Raises:
            RuntimeError: nothing was sent yet.
        """
        asking = self._asking
        if asking is None and self.turn_id is None:
            raise RuntimeError("There is nothing to stop: no piece of the answer, and not its turn, was asked for.")
        while self.turn_id is None:  # the server names it as soon as it has stored the message
            if asking is None or asking.done():
                await self
                break
            await self._more.wait()
        if self.turn_id is None:
            raise AssertionError
        return await self.wire.cancel(self.turn_id)

    def _begin(self) -> asyncio.Task[Turn | Exception]:
        if self._asking is None:
            self.wire.connected()
            self._asking = self.wire.group.create_task(self._outcome())
            self._asking.add_done_callback(lambda _: self._wake())
        return self._asking

    async def _whole(self) -> Turn:
        turn = await self._stopping(asyncio.shield(self._begin()))
        if isinstance(turn, Exception):
            raise turn
        if turn.status != "completed":
            raise TurnError(turn)
        return turn

    async def _stopping(self, waiting: Awaitable[T]) -> T:
        """Wait; where the program takes that back, it wants the answer no more, and the server stops the turn."""
        try:
            return await waiting
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling() == 0:  # it was given up before, or by another task
                raise self._lost("The wait for this answer was given up.") from None
            await self._give_up()
            raise

    async def _give_up(self) -> None:
        asking = self._begin()
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        # While `chat` itself waits, its cancellation stops the turn; later there is only a call that looks at it.
        if self.tool == "chat" and self.is_begun and self.turn_id is not None:
            with suppress(ClientError):
                await self.wire.cancel(self.turn_id)

    def _lost(self, message: str) -> ConnectionLostError:
        key = self.arguments.get("idempotency_key")
        return ConnectionLostError(message, self.turn_id, None if key is None else str(key))

    async def _outcome(self) -> Turn | Exception:
        try:
            return await self._ask()
        except Exception as exc:  # noqa: BLE001  # for whoever waits; a failed task would end the whole connection
            return exc

    async def _ask(self) -> Turn:
        turn = await self._told(self.tool, self.arguments)
        self.is_begun = True
        joined = turn.joined
        while turn.status in _RUNNING:
            turn = await self._told("get_turn", {"turn_id": turn.turn_id})
        reply = await self.wire.whole_reply(turn) if turn.reply_truncated else turn.reply
        self.text = reply[self.known :]
        return turn.model_copy(update={"reply": reply, "reply_truncated": False, "joined": joined})

    async def _told(self, tool: str, arguments: Mapping[str, object]) -> Turn:
        try:
            turn = await self.wire.turn_call(tool, arguments, self.known + len(self.text), self._hear)
        except ConnectionLostError as exc:
            raise self._lost(str(exc)) from exc
        self.turn_id = turn.turn_id
        return turn

    def _hear(self, turn_id: str, offset: int, piece: str) -> None:
        if self.turn_id is None:
            self.turn_id = turn_id
            self._wake()
        # A piece that was lost, because this program had fallen behind, is in the whole reply at the end.
        if offset == self.known + len(self.text) and piece:
            self.text += piece
            self._wake()

    def _wake(self) -> None:
        woken, self._more = self._more, asyncio.Event()
        woken.set()
