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

T = TypeVar("T")

_LOOK_FOR_REASON = 0.05
MAX_REASON = 200

Key = tuple[object, str]


@dataclass(slots=True, eq=False)
class _Slot:
    told: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = "the client took the request back"


class Cancellations:
    """The reasons of those requests that are being handled; a key is a client's place and its request id."""

    def __init__(self) -> None:
        self._slots: dict[Key, _Slot] = {}
        self._cancels: dict[Key, Callable[[], object]] = {}

    def tell(self, key: Key, reason: object) -> None:
        """Note why a client takes a request back; what is not being handled is forgotten."""
        slot = self._slots.get(key)
        if slot is None:
            return
        if isinstance(reason, str) and reason:
            slot.reason = reason[:MAX_REASON]
        slot.told.set()

    def cancel(self, key: Key, reason: str) -> bool:
        """End the handling of a request, with its client's reason; False when it is not being handled here."""
        cancel = self._cancels.get(key)
        if cancel is None:
            return False
        self.tell(key, reason)
        cancel()
        return True

    @contextmanager
    def cancelling(self, key: Key | None, cancel: Callable[[], object]) -> Generator[None]:
        """Let `cancel` end the handling of a request; without a key nobody can."""
        if key is None:
            yield
            return
        self._cancels[key] = cancel
        try:
            yield
        finally:
            if self._cancels.get(key) is cancel:
                del self._cancels[key]

    async def carry(self, key: Key, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work; when the request is taken back, cancel it with the reason as the message."""
        with self._slot(key) as slot:
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
    def _slot(self, key: Key) -> Generator[_Slot]:
        slot = _Slot()
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
