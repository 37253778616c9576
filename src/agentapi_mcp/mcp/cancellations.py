"""Requests that their client takes back: the work is cancelled with the client's own reason.

The SDK cancels the handler before it shows us `notifications/cancelled`, and without its reason. So the work runs in a
task of its own: when the handler is cancelled, we look for the reason for a moment, then cancel the work with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from mcp_types import RequestId

T = TypeVar("T")

_LOOK_FOR_REASON = 0.05
_MAX_REASON = 200


@dataclass(slots=True, eq=False)
class _Slot:
    told: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = "the client took the request back"


class Cancellations:
    """The reasons of those requests that are being handled, by request id."""

    def __init__(self) -> None:
        self._slots: dict[str, _Slot] = {}

    def tell(self, request_id: object, reason: object) -> None:
        """Note why a client takes a request back; what is not being handled is forgotten."""
        slot = self._slots.get(str(request_id))
        if slot is None:
            return
        if isinstance(reason, str) and reason:
            slot.reason = reason[:_MAX_REASON]
        slot.told.set()

    async def carry(self, request_id: RequestId | None, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work; when the request is taken back, cancel it with the reason as the message."""
        with self._slot(request_id) as slot:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_outcome(work))
                try:
                    await asyncio.wait((task,))
                except asyncio.CancelledError:
                    with anyio.CancelScope(shield=True):
                        with anyio.move_on_after(_LOOK_FOR_REASON):
                            await slot.told.wait()
                        task.cancel(slot.reason)
                        await asyncio.wait((task,))
                    raise
        outcome = task.result()
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome

    @contextmanager
    def _slot(self, request_id: RequestId | None) -> Generator[_Slot]:
        slot, key = _Slot(), str(request_id)
        self._slots[key] = slot
        try:
            yield slot
        finally:
            if self._slots.get(key) is slot:
                del self._slots[key]


@dataclass(frozen=True, slots=True)
class _Raised:
    error: Exception


async def _outcome(work: Callable[[], Awaitable[T]]) -> T | _Raised:
    try:
        return await work()
    except Exception as exc:  # noqa: BLE001  # a task group would wrap it; it is raised again by who waits
        return _Raised(exc)
