"""Run the turns of this process, from accepted to settled, independently of the requests that started them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from agentapi_mcp.base import log_context
from agentapi_mcp.base.concurrency import first_of, guarded, yield_in_line
from agentapi_mcp.base.errors import (
    AgentApiError,
    BackendError,
    LimitExceededError,
    StoreBusyError,
    StoreError,
)
from agentapi_mcp.base.ids import SessionId, TurnId
from agentapi_mcp.base.places import Places
from agentapi_mcp.core.backends.models import BackendTurn
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.catalogue.health import check_of_turn
from agentapi_mcp.core.conversations.answer_builder import AnswerBuilder
from agentapi_mcp.core.conversations.membership_watch import MembershipWatch
from agentapi_mcp.core.conversations.models import (
    EndReason,
    FoundTurn,
    Renewal,
    SettledTurn,
    SettlingRule,
    Turn,
    TurnEnded,
    TurnStatus,
)
from agentapi_mcp.core.conversations.ports import OwnerLocks, TurnPorts
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.conversations.store_watch import StoreWatch
from agentapi_mcp.core.conversations.turn_callers import TurnCallers
from agentapi_mcp.core.conversations.turn_saver import TurnSaver
from agentapi_mcp.core.conversations.turn_signals import signal_of
from agentapi_mcp.core.conversations.turn_states import RULES, TurnState
from agentapi_mcp.core.conversations.turn_work import Prompt, TurnJob, TurnWork
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, holder_of
from agentapi_mcp.core.signals import Signal, SignalKind

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A message to accept; `size` is that of its text in bytes.

    `accept` stores it as a turn, or finds the one that answers it; the latter alone where a new one is refused.
    """

    turn_id: TurnId
    principal: Principal
    session_id: SessionId | None
    size: int
    accept: Callable[[LimitExceededError | None], Awaitable[TurnJob | Turn]]


# Events of one answer between two turns of the loop: an agent may send faster than they are handled.
EVENTS_AT_ONCE = 16
_log = logging.getLogger(__name__)
_SESSION_WITHIN = timedelta(seconds=3)


class TurnRunner:
    """Owner of the turns of this process; usable within `open`."""

    def __init__(
        self,
        ports: TurnPorts,
        options: TurnRunnerOptions,
        work: TurnWork,
        *,
        owner: UUID,
        locks: OwnerLocks | None = None,
    ) -> None:
        clock = ports.clock
        self.owner = owner
        self.options = options
        self.watch = StoreWatch(clock, gap=2 * options.renew_every + timedelta(seconds=2))
        self._turns = ports.turns
        self._events = ports.events
        self._signals = ports.signals
        self._clock = clock
        self._shares = ports.shares
        self._work = work
        self._locks = locks
        self._runs: dict[TurnId, RunningTurn] = {}
        self._accepting: dict[TurnId, asyncio.Future[RunningTurn | Turn]] = {}
        self._busy = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._interrupting = False
        self._stopping_now = asyncio.Event()
        self._places = Places(options.places, reserved=options.places_to_finish, per_key=options.places_of_a_user)
        self._session_locks = WeakValueDictionary[SessionId, asyncio.Lock]()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._saver = TurnSaver(ports, work, self.watch, self._places, owner=owner, again=options.save_again)
        self.callers = TurnCallers(ports, options, self._runs, owner=owner, stop=self.stop, spawn=self._spawn)
        self._members = MembershipWatch(ports, options, work, self._runs, stop=self.stop)
        self._group: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["TurnRunner"]:
        """Run turns until the context ends; then drain them and stop."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            unsubscribe = self._signals.subscribe(self._on_signal)
            workers = [
                group.create_task(self._beat()),
                group.create_task(self._save_texts()),
                group.create_task(self._members.run(self._busy)),
                group.create_task(self.callers.news.run()),
            ]
            try:
                yield self
            finally:
                # Before the workers end: leases must be renewed while the last turns run.
                await self.drain()
                unsubscribe()
                for task in (*workers, *self._tasks):
                    task.cancel()
                await self.callers.news.publish()

    # --- what callers ask

    def find(self, principal: Principal, turn_id: TurnId) -> RunningTurn | None:
        """Find a turn of this principal that runs here."""
        run = self._runs.get(turn_id)
        if run is None:
            return None
        turn = run.job.accepted.turn
        return run if (turn.user_id, turn.org_id) == (principal.user_id, principal.org_id) else None

    async def accepted(self, turn_id: TurnId) -> None:
        """Wait while a turn is being accepted here, which may be stored already."""
        if turn_id in self._accepting:
            await asyncio.wait((self._accepting[turn_id],))

    async def drain(self) -> None:
        """Refuse new turns, give running ones the shutdown grace, interrupt the rest, and store how all have ended."""
        self._closing = True
        self.callers.close()
        started = self._clock.monotonic()
        await first_of(self._idle.wait(), self._stopping_now.wait(), self._clock.sleep(self.options.shutdown_grace))
        self._interrupting = True
        for run in tuple(self._runs.values()):
            self.stop(run, EndReason.SHUTDOWN)
        # What is left of the grace is for the store, if it is away.
        left = self.options.shutdown_grace - timedelta(seconds=self._clock.monotonic() - started)
        left = self.options.settle_within + (timedelta(0) if self._stopping_now.is_set() else max(left, timedelta(0)))
        await first_of(self._idle.wait(), self._clock.sleep(left))

    def count(self) -> int:
        """Return how many turns run here."""
        return len(self._runs)

    async def until_idle(self) -> None:
        """Wait until no turn runs here."""
        await self._idle.wait()

    def stop_now(self) -> None:
        """End the shutdown grace of `drain` at once: the operator asked twice to stop."""
        self._stopping_now.set()

    def check_room(self) -> None:
        """Refuse a new turn while shutting down, or while answers wait to be stored.

        Raises:
            LimitExceededError: says what is the matter, and when to come back.
        """
        if self._closing:
            raise LimitExceededError(
                "The server is shutting down and takes no new messages; send it again in a moment.",
                retry_after=timedelta(seconds=5),
            )
        # While the store is away, accepting fails by itself, and says so.
        if self.watch.is_up and self._behind() > self.options.refuse_when_behind:
            raise LimitExceededError(
                "Answers wait to be written to the database, so no new messages are taken; try again in a moment.",
                retry_after=timedelta(seconds=2),
            )

    async def submit(self, submission: Submission) -> RunningTurn | Turn:
        """Accept a turn and run it if it is new; a cancelled caller does not interrupt the acceptance.

        Raises:
            LimitExceededError: there is no room for it, or it is more than the caller's share.
        """
        self.check_room()
        share, principal = self._share_of(submission), submission.principal
        submitted: asyncio.Future[RunningTurn | Turn] = asyncio.get_running_loop().create_future()
        self._spawn(self._carry(submission, share, submitted))
        try:
            # Shielded: once the turn is stored, a caller who disconnects must not leave it without a runner.
            return await asyncio.shield(submitted)
        except asyncio.CancelledError as exc:
            submitted.add_done_callback(partial(self._note_departure, principal, exc))
            raise

    def _share_of(self, submission: Submission) -> ExitStack | LimitExceededError:
        """Hold what a turn takes of its caller's share, from now until the stack is closed, or return why not.

        Raises:
            LimitExceededError: the whole server is full.
        """
        holder = holder_of(submission.principal)
        try:
            with ExitStack() as held:
                held.enter_context(self._shares.held(Resource.RUNNING_TURNS, holder))
                held.enter_context(self._shares.held(Resource.RUNNING_BYTES, holder, submission.size))
                return held.pop_all()
        except LimitExceededError as exc:
            if exc.is_servers:
                raise
            return exc

    def _note_departure(
        self, principal: Principal, gone: asyncio.CancelledError, done: "asyncio.Future[RunningTurn | Turn]"
    ) -> None:
        if not done.cancelled() and done.exception() is None:
            submitted = done.result()
            turn = submitted.job.accepted.turn if isinstance(submitted, RunningTurn) else submitted
            self.callers.left(principal, turn, gone)

    def stop(self, run: RunningTurn, reason: EndReason) -> bool:
        """Stop a turn: close the stream from the agent and keep the text so far; False if it is past that."""
        # The first reason wins: a shutdown must not rename a cancellation.
        if not RULES[run.state].may_stop or run.end_reason is not None:
            return False
        run.end_reason = reason
        if run.asking is not None:
            run.asking.reschedule(asyncio.get_running_loop().time())
        return True

    async def settle_orphans(self) -> None:
        """Settle turns that nobody runs any more, as far as this process may know that.

        Turns of owners on this machine that died are settled at once. For others, the lease must be over, and this
        process must have had the store for one lease without a break.
        """
        await self._settle(frozenset() if self._locks is None else await self._turns.owners())

    async def settle(self, found: FoundTurn) -> bool:
        """Settle this turn alone, on the same terms; False where that may not be known yet, or it has ended."""
        owners: frozenset[UUID] = frozenset() if found.owner is None else frozenset((found.owner,))
        return bool(await self._settle(owners, found.turn.id))

    async def _settle(self, owners: frozenset[UUID], only: TurnId | None = None) -> tuple[SettledTurn, ...]:
        # Taken before the statement: a turn that begins meanwhile is not one of these, and has a new lease.
        own = frozenset((*self._runs, *self._accepting))
        dead = frozenset[UUID]() if self._locks is None else self._locks.died(owners - {self.owner})
        may_settle = self.watch.had_for(self.options.lease)
        if not dead and not may_settle:
            return ()
        rule = SettlingRule(
            own=own,
            dead=dead,
            lease=self.options.lease if may_settle else None,
            seen_at=self.watch.seen_at,
            gap=self.watch.gap,
            only=only,
        )
        settled = await self._turns.settle(rule)
        for turn in settled:
            _log.warning("turn_settled", extra={"turn_id": str(turn.id)})
            self._signals.send(signal_of(SignalKind.ENDED, turn))
        return settled

    # --- a turn, from accepted to settled

    async def _carry(
        self,
        submission: Submission,
        share: ExitStack | LimitExceededError,
        submitted: "asyncio.Future[RunningTurn | Turn]",
    ) -> None:
        refused, held = (share, ExitStack()) if isinstance(share, LimitExceededError) else (None, share)
        with held:
            run = await self._accept(submission, refused, submitted)
            if run is None:
                return
            run.share = held
            try:
                await self._run(run)
            finally:
                if run.id in self._runs:  # its task ends before its time: nobody may wait for it, or renew its lease
                    run.answered.set()
                    self._release(run)

    async def _accept(
        self,
        submission: Submission,
        refused: LimitExceededError | None,
        submitted: "asyncio.Future[RunningTurn | Turn]",
    ) -> RunningTurn | None:
        """Store a turn and begin to run it; None if another one answers it, or it was refused."""
        turn_id = submission.turn_id
        log_context.turn_id.set(str(turn_id))
        self._accepting[turn_id] = submitted
        self._idle.clear()
        try:
            # One place for each session: those who wait for its row must not keep others waiting.
            place = self._places.of(submission.principal.user_id)
            lock = await self._locked(submission.session_id)
            try:
                async with place:
                    accepted = await submission.accept(refused)
            finally:
                lock.release()
        except Exception as exc:  # noqa: BLE001  # raised in the task of the caller
            submitted.set_exception(exc)
            submitted.exception()  # marks it as retrieved: the caller may have gone
            return None
        else:
            if isinstance(accepted, Turn):
                submitted.set_result(accepted)
                return None
            run = self._begin(accepted)
            submitted.set_result(run)
            return run
        finally:
            if not submitted.done():  # the program ends: its caller must not wait for ever
                submitted.cancel()
            self._accepting.pop(turn_id, None)
            self._note_idle()

    async def _locked(self, session_id: SessionId | None) -> asyncio.Lock:
        """Return the lock of a session, which is held; a new session's is its own."""
        lock = None if session_id is None else self._session_locks.get(session_id)
        if lock is None:  # nobody has it, and it is there at once
            lock = asyncio.Lock()
            if session_id is not None:
                self._session_locks[session_id] = lock
            await lock.acquire()
        else:
            await self._wait_for(lock)
        return lock

    async def _wait_for(self, lock: asyncio.Lock) -> None:
        try:
            async with asyncio.timeout(_SESSION_WITHIN.total_seconds()):
                await lock.acquire()
        except TimeoutError as exc:
            raise StoreBusyError(
                "Other messages to this session wait to be accepted; this one was not. Try again in a moment."
            ) from exc

    def _begin(self, job: TurnJob) -> RunningTurn:
        turn = job.accepted.turn
        may_go_on = Capability.STOPS_BILLING not in job.choice.capabilities
        choice = job.choice
        about = choice.model.description if choice.model else None
        answer = AnswerBuilder(self._clock, choice.prices_at, may_go_on, choice.payer, about)
        answer.begin()
        run = RunningTurn(job, answer)
        self._runs[run.id] = run
        self._busy.set()
        self._idle.clear()
        kind = SignalKind.SESSIONS_CHANGED if job.accepted.session_created else SignalKind.SESSION_CHANGED
        self._signals.send(signal_of(kind, turn))
        if self._interrupting:
            self.stop(run, EndReason.SHUTDOWN)
        return run

    async def _run(self, run: RunningTurn) -> None:
        prompt: Prompt | None = None
        error: BaseException | None = None
        try:
            # A time-out without a time: `stop` sets it to now, which ends this part, and nothing else of the task.
            async with asyncio.timeout(None) as run.asking:
                if run.end_reason is None:
                    turn, prompt = await self._saver.through_outages(partial(self._work.prepare, run.job))
                    run.answer.history_dropped = prompt.dropped
                    await self._ask(run, turn)
        except Exception as exc:  # noqa: BLE001  # a failing turn must not cancel the others in the group
            was_stopped = isinstance(exc, TimeoutError) and run.asking is not None and run.asking.expired()
            error = None if was_stopped else exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            error = exc  # of something that the agent's backend waited for: nobody cancels this task
        if error is not None and not isinstance(error, BackendError):
            _log.error("turn_crashed", exc_info=error, extra={"turn_id": str(run.id)})
        run.answer.end(run.end_reason, error)
        run.answered_at = self._clock.monotonic()
        run.advance(TurnState.ANSWERED)
        run.begun.set()
        run.answered.set()
        await self._saver.save(run)
        run.advance(TurnState.SAVED)
        # Release the callers before the bookkeeping, which can wait for the database.
        self._release(run)
        await self._report_end(run, prompt)
        run.advance(TurnState.SETTLED)

    async def _ask(self, run: RunningTurn, turn: BackendTurn) -> None:
        if not await self._may_ask(run):
            return
        run.advance(TurnState.RUNNING)
        run.answer.asked = True
        at_once = 0
        async with aclosing(run.job.choice.backend.run(turn)) as events:
            async for event in events:
                offset = run.answer.characters
                run.answer.apply(event)
                if run.answer.characters:
                    run.begun.set()
                self._events.publish(run.id, event, offset)
                at_once += 1
                if at_once >= EVENTS_AT_ONCE:
                    at_once = 0
                    await yield_in_line()

    async def _may_ask(self, run: RunningTurn) -> bool:
        """Commit that the provider is about to be asked, unless accept has done that."""
        if run.job.accepted.turn.asked_at is not None:
            return True
        if await self._saver.through_outages(partial(self._turns.mark_asked, self.owner, run.id)):
            return True
        self._lose(run)
        return False

    def _release(self, run: RunningTurn) -> None:
        self._runs.pop(run.id, None)
        run.share.close()  # before its callers know, who may send the next message at once
        run.saved.set()
        self._events.publish(run.id, TurnEnded(self._clock.now()), run.answer.characters)
        self._signals.send(signal_of(SignalKind.ENDED, run.job.accepted.turn))
        self._note_idle()

    def _note_idle(self) -> None:
        if not self._runs:
            self._busy.clear()
            if not self._accepting:
                self._idle.set()

    async def _report_end(self, run: RunningTurn, prompt: Prompt | None) -> None:
        answer = run.answer
        try:
            if run.stored is not None and not run.lost:
                await self._work.settled(run.job, run.stored, prompt)
            if (
                answer.asked
                and answer.status in {TurnStatus.COMPLETED, TurnStatus.FAILED}
                and answer.end_reason is not EndReason.INTERNAL
            ):
                check = check_of_turn(answer.fault and answer.fault.fault, run.job.choice.payer, latency=answer.latency)
                await self._work.observe(run.job, check)
        except Exception as exc:  # noqa: BLE001  # it must not end the other turns of the group
            unexpected = None if isinstance(exc, AgentApiError) else exc
            _log.warning("turn_not_observed", exc_info=unexpected, extra={"turn_id": str(run.id), "error": str(exc)})

    def _behind(self) -> timedelta:
        """Return for how long the oldest of the answers has waited that wait for their turn to be stored.

        One that is being stored, and that the store refuses or keeps waiting, says nothing about the others.
        """
        waiting = [run.answered_at for run in self._runs.values() if run.waits_for_place]
        return timedelta(seconds=self._clock.monotonic() - min(waiting)) if waiting else timedelta(0)

    # --- periodic work

    async def _beat(self) -> None:
        """Renew the leases of this process's turns and settle those of dead owners; so the store is watched, too."""
        while True:
            try:
                async with asyncio.timeout(self.options.renew_within.total_seconds()):
                    await self._renew()
                    await self.settle_orphans()
            except Exception as exc:  # noqa: BLE001  # the outermost point: the turns of the group go on
                expected = isinstance(exc, AgentApiError | TimeoutError)
                if self.watch.is_up or not expected:
                    # Not fatal: a lease outlives two missed renewals.
                    extra = {"turns": len(self._runs), "error": str(exc)}
                    _log.warning("leases_not_renewed", exc_info=None if expected else exc, extra=extra)
                self.watch.failed()
            if self.watch.is_up:
                await first_of(self._clock.sleep(self.options.renew_every), self.watch.until_down())
            else:
                await self._clock.sleep(self.options.renew_again)

    async def _renew(self) -> None:
        running = [run for run in self._runs.values() if not run.saved.is_set()]
        renewal = await self._turns.renew(self.owner, [run.id for run in running], self.options.lease)
        self.watch.seen(renewal.at)
        self._apply(renewal, running)

    def _apply(self, renewal: Renewal, running: list[RunningTurn]) -> None:
        renewed = {lease.turn_id: lease for lease in renewal.leases}
        for run in running:
            lease = renewed.get(run.id)
            if lease is None:
                if not run.answered.is_set():  # otherwise its end may have been stored just now
                    self._lose(run)
            elif lease.cancel_requested:
                self.stop(run, EndReason.CANCEL_TURN)  # also if its notification was lost

    def _lose(self, run: RunningTurn) -> None:
        """Give up a turn that another process has ended: stop it, and store nothing more."""
        run.lost = True
        self.stop(run, EndReason.LEASE_EXPIRED)

    async def _save_texts(self) -> None:
        while True:
            await self._busy.wait()
            await self._clock.sleep(self.options.save_every)
            for run in tuple(self._runs.values()):
                await guarded(self._save_text(run))

    async def _save_text(self, run: RunningTurn) -> None:
        if run.answer.characters == run.saved_characters or run.answered.is_set():
            return
        # Read before the await: text that arrives during it is not saved yet.
        characters = run.answer.characters
        with suppress(StoreError):
            await self._turns.save_partial(run.job.principal, self.owner, run.id, run.answer.text)
            run.saved_characters = characters

    def _on_signal(self, signal: Signal) -> None:
        run = None if signal.turn_id is None else self._runs.get(signal.turn_id)
        if run is None:
            return
        if signal.kind is SignalKind.CANCEL:
            self.stop(run, EndReason.CANCEL_TURN)
        elif signal.kind is SignalKind.CALLER_LEFT:
            self.callers.left_elsewhere(run, signal.departure)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        if self._group is None:
            raise LimitExceededError("The server is not up yet; try again.")
        task = self._group.create_task(guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
