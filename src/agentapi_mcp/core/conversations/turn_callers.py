"""Who waits for the turns of this process, and what becomes of a turn that nobody waits for any more."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.core.conversations.caller_news import CallerNews, Spawn
from agentapi_mcp.core.conversations.departures import Departure
from agentapi_mcp.core.conversations.models import EndReason, Turn, TurnMark
from agentapi_mcp.core.conversations.ports import TurnPorts
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.conversations.turn_signals import signal_of
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.signals import SignalKind

Stop = Callable[[RunningTurn, EndReason], bool]
# Stop is in a hurry; otherwise a look that takes too long loses its connection, and the next one takes longer.
_LOOK_WITHIN = {True: 0.3, False: 5.0}
# Who follows a turn of another process says so every second, and has said so again after this time.
FOLLOWED_EVERY, _FOLLOWED_AGAIN, _FOLLOWED_WITHIN = timedelta(seconds=1), timedelta(seconds=1.4), timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the store knows of callers elsewhere: whether one was told that it runs, and how long all were quiet."""

    answered_running: bool
    quiet_for: timedelta | None


class TurnCallers:
    """The callers of this process, wherever their turns run, and those of its turns, wherever they wait."""

    def __init__(
        self,
        ports: TurnPorts,
        options: TurnRunnerOptions,
        runs: Mapping[TurnId, RunningTurn],
        *,
        owner: UUID,
        stop: Stop,
        spawn: Spawn,
    ) -> None:
        self._turns = ports.turns
        self._signals = ports.signals
        self._clock = ports.clock
        self._options = options
        self._runs = runs
        self._owner = owner
        self._stop = stop
        self._spawn = spawn
        self._closing = False
        self.news = CallerNews(ports.turns, ports.clock, spawn)

    def close(self) -> None:
        """From now on, the end of the process decides when turns end, and not their callers."""
        self._closing = True

    @asynccontextmanager
    async def following(self, run: RunningTurn) -> AsyncGenerator[None]:
        """Count a waiting caller; when the last one leaves without an answer, the turn runs on for a while only."""
        run.followers += 1
        run.follow_count += 1
        self._stay(run)
        gone: asyncio.CancelledError | None = None
        try:
            yield
        except asyncio.CancelledError as exc:
            gone = exc
            raise
        finally:
            run.followers -= 1
            if gone is not None and run.followers == 0:
                self._abandon(run, Departure.of(gone))

    def left(self, principal: Principal, turn: Turn, gone: asyncio.CancelledError) -> None:
        """Note that a caller has left before or while it waited for a turn, and how; the turn may run anywhere."""
        run = self._runs.get(turn.id)
        if run is not None:
            self._leave(run, Departure.of(gone))
        elif not turn.status.is_final:
            self.news.mark(principal, turn.id, TurnMark.CALLER_GONE)
            self._signals.send(signal_of(SignalKind.CALLER_LEFT, turn, departure=Departure.of(gone)))

    def left_elsewhere(self, run: RunningTurn, how: str | None) -> None:
        """Take note of a caller who has left this turn through another process."""
        with suppress(ValueError):  # a newer program's word
            departure = Departure(how)
            run.left_elsewhere_at = self._clock.monotonic()
            self._leave(run, departure)

    def came_back(self, turn: Turn, at: datetime | None) -> None:
        """Note that a caller of this process has joined a turn, at this time of the store's clock."""
        run = self._runs.get(turn.id)
        if run is not None:
            run.follow_count += 1
            run.followed_here_at = at
            self.news.forget(run.id, TurnMark.CALLER_GONE)

    def told_running(self, principal: Principal, turn: Turn) -> None:
        """Note that a caller was told that a turn runs, wherever it does."""
        run = self._runs.get(turn.id)
        if run is not None:
            self.answer_running(run)
        elif not turn.status.is_final:
            self.news.mark(principal, turn.id, TurnMark.ANSWERED_RUNNING)

    def answer_running(self, run: RunningTurn) -> None:
        """Note that a caller was told that this turn runs: it is expected to come back later."""
        if not run.answered_running:
            run.answered_running = True
            self.news.mark(run.job.principal, run.id, TurnMark.ANSWERED_RUNNING)

    def _stay(self, run: RunningTurn) -> None:
        run.caller_gone = False
        # A store that was away may not know yet that the caller had left.
        self.news.forget(run.id, TurnMark.CALLER_GONE)

    def _leave(self, run: RunningTurn, departure: Departure) -> None:
        if run.followers == 0:
            run.follow_count += 1  # how this caller left is what counts now
            self._abandon(run, departure)

    def _abandon(self, run: RunningTurn, departure: Departure) -> None:
        # A turn answered as running is never abandoned: its caller is expected to come back later.
        if run.answered_running or self._closing:
            return
        run.caller_gone = True
        self.news.mark(run.job.principal, run.id, TurnMark.CALLER_GONE)
        self._spawn(self._stop_unless_followed(run, departure))

    def _runs_on(self, run: RunningTurn, departure: Departure) -> timedelta:
        """Return for how long a turn runs on without a caller."""
        match departure:
            case Departure.STOPPED:
                return self._options.stopped_grace
            case Departure.TIMED_OUT | Departure.CLIENT_GONE:
                return max(run.job.choice.declaration.abandon_after, self._options.abandon_grace)
            case Departure.UNCLEAR:
                return self._options.abandon_grace

    async def _stop_unless_followed(self, run: RunningTurn, departure: Departure) -> None:
        """Stop a turn that nobody has followed for its grace, here or in another process."""
        grace, follow_count = self._runs_on(run, departure), run.follow_count
        wait = grace
        while True:
            earlier = await self._wait(run, departure, wait)
            looked_at = self._clock.monotonic()
            look = await self._look(run, departure, earlier)
            # After the last await: a caller who has come back here meanwhile counts.
            if run.answered.is_set() or run.answered_running or run.follow_count != follow_count:
                return
            if look is None or look.answered_running:
                return
            if self._is_unfollowed(run, look.quiet_for, looked_at, grace):
                self._stop(run, EndReason.ABANDONED)
                return
            wait = max(grace, FOLLOWED_EVERY)

    def _is_unfollowed(self, run: RunningTurn, quiet: timedelta | None, looked_at: float, grace: timedelta) -> bool:
        """Tell whether nobody has followed a turn elsewhere, or not for long, or the last one has left since.

        That is told by its own signal: what the store knows of a departure may be another caller's, or on its way.
        """
        if quiet is None or quiet >= max(grace, _FOLLOWED_WITHIN):
            return True
        if run.left_elsewhere_at is None:
            return False
        left_for = timedelta(seconds=looked_at - run.left_elsewhere_at)
        return _FOLLOWED_AGAIN <= left_for <= quiet  # otherwise another one may still follow it

    async def _wait(self, run: RunningTurn, departure: Departure, wait: timedelta) -> "_Look | None":
        """Wait; where there is no time to look after that, look meanwhile, for as long as it takes.

        Stop waits only if somebody may follow the turn in another process.
        """
        until, earlier = self._clock.monotonic() + wait.total_seconds(), None
        if departure is Departure.STOPPED:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    earlier = await self._look_once(run)
            if earlier is not None and earlier.quiet_for is None:
                return earlier
        left = timedelta(seconds=max(0.0, until - self._clock.monotonic()))
        await first_of(run.answered.wait(), self._clock.sleep(left))
        return earlier

    async def _look(self, run: RunningTurn, departure: Departure, earlier: "_Look | None") -> "_Look | None":
        """Return who follows a turn in other processes; None if it is not ours any more.

        While the store is away nobody knows of them, and the turn goes on. Stop does not wait for that: what was seen
        earlier counts, and otherwise nobody does.
        """
        while not run.answered.is_set():
            try:
                async with asyncio.timeout(_LOOK_WITHIN[departure is Departure.STOPPED]):
                    return await self._look_once(run)
            except (StoreError, TimeoutError):
                if departure is Departure.STOPPED:
                    break
                await self._clock.sleep(self._options.renew_again)
        return earlier or _Look(answered_running=False, quiet_for=None)

    async def _look_once(self, run: RunningTurn) -> "_Look | None":
        renewal = await self._turns.renew(self._owner, [run.id], self._options.lease)
        if not renewal.leases:
            return None
        (lease,) = renewal.leases
        elsewhere = None if lease.followed_at == run.followed_here_at else lease.followed_at
        return _Look(lease.answered_running, None if elsewhere is None else renewal.at - elsewhere)
