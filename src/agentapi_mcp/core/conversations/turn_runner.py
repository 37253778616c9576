"""Run the turns of this process, independently of the requests that started them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

from agentapi_mcp.base import log_context
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import AgentApiError, BackendError, LimitExceededError, StoreError, StoreUnavailableError
from agentapi_mcp.base.ids import TurnId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.health import check_of_turn
from agentapi_mcp.core.conversations.answer_builder import AnswerBuilder
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    EndReason,
    History,
    Turn,
    TurnEnded,
    TurnMark,
    TurnStatus,
)
from agentapi_mcp.core.conversations.ports import TurnEvents, TurnStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import KeySource
from agentapi_mcp.core.signals import Signal, SignalKind, Signals

T = TypeVar("T")

_log = logging.getLogger(__name__)

# To store an outcome; only where the error is not temporary, or at shutdown. Otherwise there is no limit.
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRunnerOptions:
    """Timing and limits of the engine; docs/design/turns.md explains the defaults."""

    lease: timedelta = timedelta(seconds=15)
    renew_every: timedelta = timedelta(seconds=5)
    save_every: timedelta = timedelta(seconds=2)
    abandon_grace: timedelta = timedelta(seconds=15)
    stopped_grace: timedelta = timedelta(seconds=2)
    shutdown_grace: timedelta = timedelta(seconds=1.5)
    settle_within: timedelta = timedelta(seconds=5)
    max_running: int = 1000
    max_writing: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnJob:
    """A turn to run, with its backend and callbacks."""

    accepted: AcceptedTurn
    principal: Principal
    backend: Backend
    prices: Prices
    key_source: KeySource
    prepare: Callable[[], Awaitable[tuple[BackendTurn, History]]]
    observe: Callable[[HealthCheck], Awaitable[None]]
    settled: Callable[[Turn, History | None, int], Awaitable[None]]


@dataclass(slots=True, eq=False)
class RunningTurn:
    """One running turn.

    `begun` is set by the first text or the end, `answered` when the outcome is known, and `written` when it is stored
    or the lease is lost to another process. `follow_count` counts all callers who followed the turn so far.
    """

    job: TurnJob
    answer: AnswerBuilder
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    written: asyncio.Event = field(default_factory=asyncio.Event)
    final: Turn | None = None
    followers: int = 0
    follow_count: int = 0
    answered_running: bool = False
    caller_gone: bool = False
    lost: bool = False
    end_reason: EndReason | None = None
    saved_characters: int = 0
    work: asyncio.Task[Exception | None] | None = None

    @property
    def id(self) -> TurnId:
        """The turn's id."""
        return self.job.accepted.turn.id

    def snapshot(self) -> Turn:
        """Return the current turn, with the text so far."""
        return self.final or self.answer.snapshot(self.job.accepted.turn)


class TurnRunner:
    """Owner of the running turns of this process; usable within `open`."""

    def __init__(
        self,
        turns: TurnStore,
        events: TurnEvents,
        signals: Signals,
        clock: Clock,
        options: TurnRunnerOptions,
        *,
        owner: UUID,
    ) -> None:
        self.owner = owner
        self.options = options
        self._turns = turns
        self._events = events
        self._signals = signals
        self._clock = clock
        self._runs: dict[TurnId, RunningTurn] = {}
        self._busy = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._stopping_now = asyncio.Event()
        self._marking: set[asyncio.Task[None]] = set()
        # Bounds concurrent writes: a burst of new turns must not take all connections of the pool from reads.
        self._writing = asyncio.Semaphore(options.max_writing)
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["TurnRunner"]:
        """Run turns until the context ends; then drain them and stop."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            unsubscribe = self._signals.subscribe(self._on_signal)
            workers = [group.create_task(self._renew_leases()), group.create_task(self._save_texts())]
            try:
                yield self
            finally:
                # Before the workers end: leases must be renewed while the last turns run.
                await self.drain()
                unsubscribe()
                for worker in workers:
                    worker.cancel()
                for run in self._runs.values():
                    if run.work is not None:
                        run.work.cancel()

    def find(self, turn_id: TurnId) -> RunningTurn | None:
        """Find a turn that runs here."""
        return self._runs.get(turn_id)

    async def drain(self) -> None:
        """Refuse new turns, give running ones the shutdown grace, and interrupt the rest."""
        self._closing = True
        if not self._runs:
            return
        await first_of(self._idle.wait(), self._stopping_now.wait(), self._clock.sleep(self.options.shutdown_grace))
        for run in tuple(self._runs.values()):
            self.stop(run, EndReason.SHUTDOWN)
        await first_of(self._idle.wait(), self._clock.sleep(self.options.settle_within))

    def stop_now(self) -> None:
        """End the shutdown grace of `drain` at once: the operator asked twice to stop."""
        self._stopping_now.set()

    def check_room(self) -> None:
        """Refuse a new turn while shutting down or at the limit.

        Raises:
            LimitExceededError: the server shuts down, or runs the maximum number of turns.
        """
        if self._closing:
            raise LimitExceededError("The server is shutting down and takes no new messages; start it again.")
        if len(self._runs) >= self.options.max_running:
            raise LimitExceededError(
                f"{self.options.max_running} turns are running here, which is the limit; try again when one has ended.",
                retry_after=timedelta(seconds=5),
            )

    async def submit(self, accept: Callable[[], Awaitable[TurnJob | Turn]]) -> RunningTurn | Turn:
        """Accept a turn and run it if it is new; a cancelled caller does not interrupt the acceptance."""
        self.check_room()
        task = self._spawn(self._accept(accept))
        try:
            # Shielded: once the turn is stored, a caller who disconnects must not leave it without a runner.
            accepted = await asyncio.shield(task)
        except asyncio.CancelledError as exc:
            task.add_done_callback(partial(self._abandon_unfollowed, exc))
            raise
        if isinstance(accepted, Exception):
            raise accepted
        return accepted

    async def _accept(self, accept: Callable[[], Awaitable[TurnJob | Turn]]) -> RunningTurn | Turn | Exception:
        if self._marking:  # a caller who reconnects at once must find CALLER_GONE recorded
            await asyncio.wait(self._marking)
        try:
            async with self._writing:
                accepted = await accept()
        except Exception as exc:  # noqa: BLE001  # re-raised by `submit` in the task of the caller
            return exc
        return self._start(accepted) if isinstance(accepted, TurnJob) else accepted

    def _abandon_unfollowed(
        self, gone: asyncio.CancelledError, done: "asyncio.Task[RunningTurn | Turn | Exception]"
    ) -> None:
        if not done.cancelled() and isinstance(run := done.result(), RunningTurn) and run.followers == 0:
            self._abandon(run, gone)

    def _start(self, job: TurnJob) -> RunningTurn:
        may_go_on = Capability.STOPS_BILLING not in job.backend.capabilities
        answer = AnswerBuilder(self._clock, job.prices, may_go_on, job.key_source)
        answer.begin()
        run = RunningTurn(job, answer)
        self._runs[run.id] = run
        self._busy.set()
        self._idle.clear()
        self._spawn(self._run(run))
        return run

    def _spawn(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        if self._group is None:
            raise LimitExceededError("The server is not up yet; try again.")
        return self._group.create_task(work)

    @asynccontextmanager
    async def following(self, run: RunningTurn) -> AsyncGenerator[None]:
        """Count a waiting caller; when the last one disconnects without an answer, the abandon grace starts."""
        run.followers += 1
        run.follow_count += 1
        run.caller_gone = False
        gone: asyncio.CancelledError | None = None
        try:
            yield
        except asyncio.CancelledError as exc:
            gone = exc
            raise
        finally:
            run.followers -= 1
            if gone is not None and run.followers == 0:
                self._abandon(run, gone)

    def stop(self, run: RunningTurn, reason: EndReason) -> None:
        """Stop a turn: close the stream from the agent and keep the text so far."""
        if run.answered.is_set() or run.end_reason is not None:
            return
        # The first reason wins: a shutdown must not rename a cancellation.
        run.end_reason = reason
        if run.work is not None:
            run.work.cancel()

    async def _run(self, run: RunningTurn) -> None:
        log_context.turn_id.set(str(run.id))
        error: Exception | None = None
        history: History | None = None
        prompt_bytes = 0
        try:
            turn, history = await run.job.prepare()
            run.answer.history_dropped = history.dropped
            prompt_bytes = (
                sum(len(message.text) for message in turn.history) + len(turn.message) + len(turn.system or "")
            )
            if run.end_reason is None:  # otherwise it was stopped before it began
                run.work = self._spawn(self._consume(run, turn))
                # `wait`, since awaiting the task itself would raise its cancellation here.
                await asyncio.wait({run.work})
                error = None if run.work.cancelled() else run.work.result()
        except Exception as exc:  # noqa: BLE001  # a failing turn must not cancel the others in the group
            error = exc
        if error is not None and not isinstance(error, BackendError):
            _log.error("turn_crashed", exc_info=error, extra={"turn_id": str(run.id)})
        run.answer.end(run.end_reason, error)
        run.begun.set()
        run.answered.set()
        try:
            await self._finish(run)
        except Exception as exc:  # noqa: BLE001  # its lease expires, and the next reader marks it as interrupted
            _log.error("turn_not_finished", exc_info=exc, extra={"turn_id": str(run.id)})
        # Release the callers before the bookkeeping, which can wait for the database.
        self._release(run)
        await self._report_end(run, history, prompt_bytes)

    async def _consume(self, run: RunningTurn, turn: BackendTurn) -> Exception | None:
        try:
            async with aclosing(run.job.backend.run(turn)) as events:
                async for event in events:
                    offset = run.answer.characters
                    run.answer.apply(event)
                    if run.answer.characters:
                        run.begun.set()
                    self._events.publish(run.id, event, offset)
        except Exception as exc:  # noqa: BLE001  # a failing turn must not cancel the others in the group
            return exc
        return None

    async def _finish(self, run: RunningTurn) -> None:
        tries = 0
        # Retried until it is stored or the lease is lost; meanwhile callers get the reply with `saved: false`.
        while not run.lost:
            # An answer at shutdown counts as not delivered, so that a repeated request finds its turn again.
            delivered = run.followers > 0 and run.end_reason is not EndReason.SHUTDOWN
            ending = run.answer.ending(self.owner, delivered=delivered, caller_gone=run.caller_gone)
            ended = run.answer.snapshot(run.job.accepted.turn)
            try:
                async with self._writing:
                    run.final = await self._turns.finish(run.job.principal, ended, ending)
                break
            except StoreError as exc:
                tries += 1
                _log.warning("finish_delayed", extra={"turn_id": str(run.id), "tries": tries, "error": str(exc)})
                is_final = self._closing or not isinstance(exc, StoreUnavailableError)
                if is_final and tries > _TRIES:
                    break
                await self._clock.sleep(timedelta(seconds=min(5.0, 0.2 * 2**tries)))

    def _release(self, run: RunningTurn) -> None:
        self._runs.pop(run.id, None)
        run.written.set()
        self._events.publish(run.id, TurnEnded(self._clock.now()), run.answer.characters)
        if not self._runs:
            self._busy.clear()
            self._idle.set()

    async def _report_end(self, run: RunningTurn, history: History | None, prompt_bytes: int) -> None:
        answer = run.answer
        try:
            if run.final is not None:  # otherwise the lease is lost, and another process ends it
                await run.job.settled(run.final, history, prompt_bytes)
            if (
                answer.status in {TurnStatus.COMPLETED, TurnStatus.FAILED}
                and answer.end_reason is not EndReason.INTERNAL
            ):
                latency = answer.bill(run.job.accepted.turn).latency
                await run.job.observe(check_of_turn(answer.fault and answer.fault.fault, latency=latency))
        except AgentApiError as exc:
            _log.warning("turn_not_observed", extra={"turn_id": str(run.id), "error": str(exc)})

    def _abandon(self, run: RunningTurn, gone: asyncio.CancelledError) -> None:
        # A turn answered as running is never abandoned: its caller is expected to come back later.
        if run.answered_running or run.answered.is_set() or self._closing:
            return
        run.caller_gone = True
        # The MCP server passes on the client's reason: a user who pressed stop gets a shorter grace than a lost link.
        stopped = any("user" in str(word).lower() for word in gone.args)
        grace = self.options.stopped_grace if stopped else self.options.abandon_grace
        marking = self._spawn(self._mark_gone(run))
        self._marking.add(marking)
        marking.add_done_callback(self._marking.discard)
        self._spawn(self._cancel_unless_followed(run, grace))

    async def _mark_gone(self, run: RunningTurn) -> None:
        with suppress(StoreError):
            await self._turns.mark(run.job.principal, run.id, TurnMark.CALLER_GONE)

    async def _cancel_unless_followed(self, run: RunningTurn, grace: timedelta) -> None:
        follow_count = run.follow_count
        # A caller who comes back through another process is visible only as `followed_at` of the row.
        before = await self._followed_at(run)
        await first_of(run.answered.wait(), self._clock.sleep(grace))
        if run.follow_count == follow_count and not run.answered.is_set() and await self._followed_at(run) == before:
            self.stop(run, EndReason.ABANDONED)

    async def _followed_at(self, run: RunningTurn) -> datetime | None:
        try:
            leases = await self._turns.renew(self.owner, [run.id], self.options.lease)
        except StoreError:
            return None
        return leases[0].followed_at if leases else None

    async def _renew_leases(self) -> None:
        while True:
            await self._busy.wait()
            await self._clock.sleep(self.options.renew_every)
            running = [run for run in self._runs.values() if not run.written.is_set()]
            if not running:
                continue
            try:
                leases = await self._turns.renew(self.owner, [run.id for run in running], self.options.lease)
            except StoreError as exc:
                # Not fatal: a lease outlives two missed renewals.
                _log.warning("leases_not_renewed", extra={"turns": len(running), "error": str(exc)})
                continue
            renewed = {lease.turn_id: lease for lease in leases}
            for run in running:
                lease = renewed.get(run.id)
                if lease is None and not run.written.is_set() and not run.answered.is_set():
                    # Another process has ended the turn: stop it, and store nothing more.
                    run.lost = True
                    self.stop(run, EndReason.LEASE_EXPIRED)
                elif lease is not None and lease.cancel_requested:
                    self.stop(run, EndReason.CANCEL_TURN)  # also if its notification was lost

    async def _save_texts(self) -> None:
        while True:
            await self._busy.wait()
            await self._clock.sleep(self.options.save_every)
            for run in tuple(self._runs.values()):
                if run.answer.characters == run.saved_characters or run.answered.is_set():
                    continue
                # Read before the await: text that arrives during it is not saved yet.
                characters = run.answer.characters
                with suppress(StoreError):
                    await self._turns.save_partial(run.job.principal, self.owner, run.id, run.answer.text)
                    run.saved_characters = characters

    def _on_signal(self, signal: Signal) -> None:
        if signal.kind is SignalKind.CANCEL and signal.turn_id is not None:
            run = self._runs.get(signal.turn_id)
            if run is not None:
                self.stop(run, EndReason.CANCEL_TURN)
