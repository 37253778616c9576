"""Cancelled requests: the work is cancelled with the reason that the client gives.

The SDK cancels the handler before it passes on `notifications/cancelled`, and without the reason. So the work runs in
its own task: when the handler is cancelled, we wait a moment for the reason, then cancel the work with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

T = TypeVar("T")

_REASON_TIMEOUT = 0.05
MAX_REASON = 200

Key = tuple[object, str]


@dataclass(slots=True, eq=False)
class _Slot:
    has_reason: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = "the client took the request back"


class Cancellations:
    """Running requests and the reasons of their cancellation; a key is a client's connection and the request id."""

    def __init__(self) -> None:
        self._slots: dict[Key, _Slot] = {}
        self._cancels: dict[Key, Callable[[], object]] = {}

    def set_reason(self, key: Key, reason: object) -> None:
        """Store the reason of a cancellation; without effect if the request is not running."""
        slot = self._slots.get(key)
        if slot is None:
            return
        if isinstance(reason, str) and reason:
            slot.reason = reason[:MAX_REASON]
        slot.has_reason.set()

    def cancel(self, key: Key, reason: str) -> bool:
        """Cancel a running request with the client's reason; return False if it does not run in this process."""
        cancel = self._cancels.get(key)
        if cancel is None:
            return False
        self.set_reason(key, reason)
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
        """Run the work; if the request is cancelled, cancel the work with the reason as the message."""
        with self._slot(key) as slot:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(_outcome(work))
                try:
                    await asyncio.wait((task,))
                except asyncio.CancelledError:
                    # The SDK's own message holds a task's representation with file paths, so it is not passed on.
                    # Shielded: the work must end before the handler does, whatever else is cancelled.
                    with anyio.CancelScope(shield=True):
                        with anyio.move_on_after(_REASON_TIMEOUT):
                            await slot.has_reason.wait()
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
    except Exception as exc:  # noqa: BLE001  # a task group would wrap it; `run` raises it again
        return _Raised(exc)
