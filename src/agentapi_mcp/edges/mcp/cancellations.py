"""Cancelled requests: the work is cancelled with how its caller left, which decides what becomes of the turn.

The SDK cancels the handler before it passes on `notifications/cancelled`, and without the reason. So the work runs in
its own task: when the handler is cancelled, we wait a moment for the reason, then cancel the work.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.edges.mcp.deliveries import Announce, PipeDeliveries

T = TypeVar("T")

_REASON_TIMEOUT = 0.05
_MAX_REASON = 200
# Stop has as many words as there are clients, none among them; a time-out has few: "Request timed out" and
# "MCP error -32001" of the TypeScript SDK, "timed out after 5s" of the Python one, "request timeout" of the Rust one,
# "deadline exceeded" of Go. Others are what programs say that set a limit of their own, and nobody of Stop.
_TIMED_OUT = re.compile(
    r"time[ds]?[ _-]*out|time[ _-]*limit|deadline|exceeded|expired|too long|no (?:response|reply|answer)|-32001",
    re.IGNORECASE,
)

Key = tuple[object, str]


class ClientConnection:
    """A client's whole connection; the tasks that serve its requests find it in `connection`.

    `ended` is set when the client has closed its end, and `broken` when nothing can be sent any more, although it has
    closed nothing. `pipe` is what its responses are written to; `announce` tells somebody in between of each.
    """

    def __init__(self, announce: Announce | None = None) -> None:
        self.ended = asyncio.Event()
        self.broken = asyncio.Event()
        self.pipe: PipeDeliveries | None = None
        self.announce = announce
        self._slots: dict[str, _Slot] = {}

    @contextmanager
    def running(self, request_id: str, slot: "_Slot") -> Generator[None]:
        """Have a running request hear of its cancellation as soon as that is read."""
        self._slots[request_id] = slot
        try:
            yield
        finally:
            if self._slots.get(request_id) is slot:
                del self._slots[request_id]

    def set_reason(self, request_id: str, reason: object) -> None:
        """Store the reason of a cancellation; of a client that ends right after it, the SDK may not tell it in time."""
        slot = self._slots.get(request_id)
        if slot is not None:
            slot.set(departure(reason))


connection = ContextVar[ClientConnection | None]("connection", default=None)


def departure(reason: object) -> Departure:
    """Return how a caller left who cancelled its request, by the reason that it gave, if any."""
    is_known = isinstance(reason, str) and _TIMED_OUT.search(reason[:_MAX_REASON])
    return Departure.TIMED_OUT if is_known else Departure.STOPPED


@dataclass(slots=True, eq=False)
class _Slot:
    has_reason: asyncio.Event = field(default_factory=asyncio.Event)
    departure: Departure = Departure.UNCLEAR

    def set(self, how: Departure) -> None:
        self.departure = how
        self.has_reason.set()


class Cancellations:
    """Running requests and the reasons of their cancellation; a key is a client's connection and the request id."""

    def __init__(self) -> None:
        self._slots: dict[Key, _Slot] = {}
        self._cancels: dict[Key, Callable[[], object]] = {}

    def set_reason(self, key: Key, reason: object) -> None:
        """Store the reason of a cancellation; without effect if the request is not running."""
        slot = self._slots.get(key)
        if slot is not None:
            slot.set(departure(reason))

    def cancel(self, key: Key, how: Departure) -> bool:
        """Cancel a running request, whose caller left in this way; return False if it does not run in this process."""
        cancel = self._cancels.get(key)
        if cancel is None:
            return False
        slot = self._slots.get(key)
        if slot is not None:
            slot.set(how)
        cancel()
        return True

    @contextmanager
    def cancelling(self, key: Key | None, cancel: Callable[[], object]) -> Generator[None]:
        """Make a request cancellable within the context; without a key it is not."""
        if key is None:
            yield
            return
        self._cancels[key] = cancel
        try:
            yield
        finally:
            if self._cancels.get(key) is cancel:
                del self._cancels[key]

    async def run(self, key: Key, work: Callable[[], Awaitable[T]]) -> T:
        """Run the work; if the request is cancelled, cancel the work with the `Departure` as the message."""
        slot = self._slots[key] = _Slot()
        client = connection.get()
        try:
            with nullcontext() if client is None else client.running(key[1], slot):
                outcome = await _run(slot, work)
        finally:
            if self._slots.get(key) is slot:
                del self._slots[key]
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome


async def _run(slot: _Slot, work: Callable[[], Awaitable[T]]) -> "T | _Raised":
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_outcome(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Shielded: the work must end before the handler does, whatever else is cancelled.
            with anyio.CancelScope(shield=True):
                task.cancel(await _how_it_left(slot))
                await asyncio.wait((task,))
            raise


async def _how_it_left(slot: _Slot) -> Departure:
    client = connection.get()
    if client is None or not client.ended.is_set():  # one that has ended gives no reason any more
        with anyio.move_on_after(_REASON_TIMEOUT):
            await slot.has_reason.wait()
    is_gone = client is not None and client.ended.is_set() and not slot.has_reason.is_set()
    return Departure.CLIENT_GONE if is_gone else slot.departure


@dataclass(frozen=True, slots=True)
class _Raised:
    error: Exception


async def _outcome(work: Callable[[], Awaitable[T]]) -> T | _Raised:
    try:
        return await work()
    except Exception as exc:  # noqa: BLE001  # a task group would wrap it; `run` raises it again
        return _Raised(exc)
