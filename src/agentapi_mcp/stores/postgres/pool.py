"""Connections to one server that are kept open for their next use."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import asyncpg

Row = asyncpg.Record


class Pool:
    """Hands out the idle connection that was used last, or a new one; whoever asks sees to it how many there are.

    Not asyncpg's pool, which starts a task and two timers each time that a connection is given back. A connection must
    be given back without an open transaction and with the settings of its session as they were, or be closed.
    """

    def __init__(self, connect: Callable[[], Awaitable["asyncpg.Connection[Row]"]], idle_lifetime: timedelta) -> None:
        self._connect = connect
        self._idle_lifetime = idle_lifetime.total_seconds()
        self._idle: deque[tuple[asyncpg.Connection[Row], float]] = deque()  # each with the time since which it is idle
        self._open: set[asyncpg.Connection[Row]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._outdated: set[asyncpg.Connection[Row]] = set()
        self._listeners: dict[object, Callable[[], None]] = {}

    async def acquire(self) -> "asyncpg.Connection[Row]":
        """Return a connection that was open when it was last used, or a new one.

        Raises:
            InterfaceError: the pool is closed.
            Exception: whatever connecting raises.
        """
        raw = self.take_idle()
        if raw is not None:
            return raw
        self._check_open()
        raw = await self._connect()
        if self._is_closed:
            _terminate(raw)
        self._check_open()
        self._open.add(raw)
        return raw

    def take_idle(self) -> "asyncpg.Connection[Row] | None":
        """Return the idle connection that was used last; None if there is none."""
        while self._idle:
            raw, _ = self._idle.pop()
            if not raw.is_closed():
                return raw
            self._open.discard(raw)
        return None

    def release(self, raw: "asyncpg.Connection[Row]") -> None:
        """Take a connection back."""
        if self._is_closed:
            return
        if raw in self._outdated:
            self._outdated.discard(raw)
            self._close(raw)
            return
        self._idle.append((raw, time.monotonic()))
        if self._timer is None:
            self._close_idle_in(self._idle_lifetime)

    def renew(self) -> None:
        """Close all that are idle now, and those in use when they are given back: the server may have been replaced."""
        while self._idle:
            self._close(self._idle.popleft()[0])
        self._outdated |= self._open
        for listener in tuple(self._listeners.values()):
            listener()

    def is_outdated(self, raw: "asyncpg.Connection[Row]") -> bool:
        """Return whether a connection in use was made before the last renewal."""
        return raw in self._outdated

    def on_renewal(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener at each renewal, until the returned function is called."""
        token = object()
        self._listeners[token] = listener

        def stop() -> None:
            self._listeners.pop(token, None)

        return stop

    def terminate(self) -> None:
        """Close all connections without a word to the server, those in use too."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._open:
            _terminate(self._open.pop())

    def _close(self, raw: "asyncpg.Connection[Row]") -> None:
        self._open.discard(raw)
        _terminate(raw)

    def _check_open(self) -> None:
        if self._is_closed:
            raise asyncpg.InterfaceError("the pool is closed")

    def _close_idle_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for too long: the ones that were used least recently are on the left."""
        self._timer = None
        now = time.monotonic()
        while self._idle and self._idle[0][1] <= now - self._idle_lifetime:
            self._close(self._idle.popleft()[0])
        if self._idle:
            self._close_idle_in(max(0.0, self._idle[0][1] + self._idle_lifetime - now))


def _terminate(raw: "asyncpg.Connection[Row]") -> None:
    with suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
        raw.terminate()
