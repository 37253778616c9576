"""Send messages to agents, and wait for, follow, read and cancel their turns."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, closing, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from agentapi_mcp.base.deadlines import Deadline
from agentapi_mcp.base.errors import StoreUnclearError
from agentapi_mcp.base.ids import TurnId, new_id, parse_id
from agentapi_mcp.base.store_waits import store_answers_within
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditTarget
from agentapi_mcp.core.conversations.joining import was_given_up
from agentapi_mcp.core.conversations.models import ChatEstimate, EndReason, Turn, TurnEvent
from agentapi_mcp.core.conversations.ports import TurnPorts
from agentapi_mcp.core.conversations.requests import ChatRequest, check_request, check_wait
from agentapi_mcp.core.conversations.running_turn import RunningTurn
from agentapi_mcp.core.conversations.turn_acceptance import TurnAcceptance
from agentapi_mcp.core.conversations.turn_follower import ProgressReport, TurnFollower
from agentapi_mcp.core.conversations.turn_runner import Submission, TurnRunner
from agentapi_mcp.core.conversations.turn_signals import signal_of
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.signals import SignalKind

T = TypeVar("T")

# Longer than a lease, after which any process settles the turn of one that died.
_WAIT_FOR_CANCEL = timedelta(seconds=20)
# A call that need not wait for the answer still waits for the message to be stored, and a read for the store.
_LEAST_WAIT = timedelta(seconds=4)
# Of one second, what is left is for the way back.
_MARGIN = timedelta(seconds=0.8)


class Turns:
    """Use cases of turns: each message is accepted once, run once, and found again by its id."""

    def __init__(self, ports: TurnPorts, runner: TurnRunner, acceptance: TurnAcceptance, audit: AuditLog) -> None:
        self._turns = ports.turns
        self._signals = ports.signals
        self._clock = ports.clock
        self._runner = runner
        self._acceptance = acceptance
        self._audit = audit
        self._follower = TurnFollower(ports, runner)

    async def chat(
        self, principal: Principal, request: ChatRequest, *, wait: timedelta, report: ProgressReport | None = None
    ) -> Turn:
        """Send a message and wait for the answer; after `wait`, return the turn while it continues to run.

        Raises:
            InvalidRequestError: an argument is invalid.
            NotFoundError: there is no such agent, model or session.
            ConflictError: the session is still answering, the idempotency key belongs to another request, or
                the turn to retry was not interrupted.
            BackendError: the agent is not fully configured.
            StoreUnclearError: the store does not answer in time, and it is not known whether the message was accepted.
        """
        require(principal, Action.CHAT)
        check_wait(wait)
        started = self._clock.monotonic()
        with closing(Deadline()) as deadline:
            while True:
                spent = timedelta(seconds=self._clock.monotonic() - started)
                submitted = await self._submit(principal, request, deadline, wait - spent)
                turn = await self._wait(principal, submitted, started, wait, report, deadline)
                if isinstance(submitted, RunningTurn):
                    return turn
                is_late = self._clock.monotonic() >= started + wait.total_seconds()
                # It was being stopped for want of a caller when this one joined it. A turn that was stopped answers
                # nobody, except for the key that it belongs to; this message is asked anew.
                if request.idempotency_key is not None or not was_given_up(turn) or is_late:
                    return replace(turn, joined=True)

    async def estimate(self, principal: Principal, request: ChatRequest) -> ChatEstimate:
        """Say what a message may cost, without asking or storing anything.

        Raises:
            InvalidRequestError: an argument is invalid.
            NotFoundError: there is no such agent, model or session.
        """
        require(principal, Action.CHAT)
        return await self._acceptance.estimate(principal, check_request(request))

    async def start(self, principal: Principal, request: ChatRequest) -> Turn:
        """Send a message without waiting; the turn runs even if no caller follows it."""
        require(principal, Action.CHAT)
        with closing(Deadline()) as deadline:
            submitted = await self._submit(principal, request, deadline, timedelta(0))
        if isinstance(submitted, Turn):
            self._runner.callers.told_running(principal, submitted)
            return submitted
        self._runner.callers.answer_running(submitted)
        return submitted.unfinished()

    async def get(
        self,
        principal: Principal,
        turn_id: str,
        *,
        wait: timedelta = timedelta(0),
        report: ProgressReport | None = None,
    ) -> Turn:
        """Read a turn, and wait up to `wait` for its end; it may run in any process."""
        require(principal, Action.READ_SESSIONS)
        check_wait(wait)
        started, id_ = self._clock.monotonic(), TurnId(parse_id(turn_id, "turn_id"))
        # First here: what this process knows of its own turns, it knows without the store.
        known = self._runner.find(principal, id_) or await _within(wait, self._turns.get(principal, id_))
        return await self._wait(principal, known, started, wait, report)

    async def cancel(self, principal: Principal, turn_id: str) -> Turn:
        """Cancel a turn, in whichever process it runs; a turn that has ended is not changed."""
        require(principal, Action.CHAT)
        id_ = TurnId(parse_id(turn_id, "turn_id"))
        started = self._clock.monotonic()
        run = self._runner.find(principal, id_)
        if run is not None and self._runner.stop(run, EndReason.CANCEL_TURN):
            # At once if it runs here, also while the store is away: the event is stored with the end.
            run.events.append(self._audit.event(principal, AuditAction.TURN_CANCELLED, target=_target(id_)))
            return await self._wait(principal, run, started, _WAIT_FOR_CANCEL, None)
        turn = await _within(_LEAST_WAIT, self._turns.request_cancel(principal, id_))
        if not turn.status.is_final:
            self._signals.send(signal_of(SignalKind.CANCEL, turn), hurry=True)
            await self._audit.record(principal, AuditAction.TURN_CANCELLED, target=_target(id_))
        return await self._wait(principal, turn, started, _WAIT_FOR_CANCEL, None)

    async def follow(self, principal: Principal, turn: Turn) -> AsyncGenerator[TurnEvent]:
        """Yield the text so far, then each event; without Redis, a turn of another process yields stored text only."""
        require(principal, Action.READ_SESSIONS)
        run = self._runner.find(principal, turn.id)
        follower = self._follower
        events = follower.follow_here(run) if run else follower.follow_elsewhere(principal, turn)
        async with aclosing(events):
            async for event in events:
                yield event

    async def recent(self, principal: Principal, limit: int, *, only_open: bool = False) -> tuple[Turn, ...]:
        """List the caller's newest turns, newest first, in all processes; those that have not ended if `only_open`.

        Of long messages and replies only the beginning is read.
        """
        require(principal, Action.READ_SESSIONS)
        return await _within(_LEAST_WAIT, self._turns.recent(principal, limit, only_open=only_open))

    async def ids_like(self, principal: Principal, part: str, limit: int = 10) -> tuple[TurnId, ...]:
        """Return so many ids of the caller's turns that begin or end with this part; none where it is part of no id."""
        require(principal, Action.READ_SESSIONS)
        digits = part.strip().lower().replace("-", "")
        if re.fullmatch(r"[0-9a-f]{1,32}", digits) is None:
            return ()
        return await _within(_LEAST_WAIT, self._turns.ids_like(principal, digits, limit))

    def delivered(self, turn: Turn) -> None:
        """Note that a caller has received a turn; every edge calls it, or the same message gets the same turn again."""
        if turn.status.is_final and turn.saved:
            self._runner.callers.news.delivered(turn.id)

    async def drain(self) -> None:
        """Refuse new messages, and let the running turns end or interrupt them; for a process that shuts down."""
        await self._runner.drain()

    def count_running(self) -> int:
        """Return how many turns run in this process."""
        return self._runner.count()

    async def until_idle(self) -> None:
        """Wait until no turn runs in this process."""
        await self._runner.until_idle()

    def stop_now(self) -> None:
        """Make `drain` interrupt the running turns at once."""
        self._runner.stop_now()

    # --- within the time that the caller gives

    async def _submit(
        self, principal: Principal, request: ChatRequest, deadline: Deadline, wait: timedelta
    ) -> RunningTurn | Turn:
        checked, turn_id = check_request(request), TurnId(new_id())
        submission = Submission(
            turn_id=turn_id,
            principal=principal,
            session_id=checked.session_id,
            size=checked.size,
            accept=partial(self._acceptance.accept, principal, checked, turn_id),
        )
        now = asyncio.get_running_loop().time()
        # The one timer of the call: the answer is waited for until `then`.
        then = now + wait.total_seconds()
        try:
            return await deadline.until(now + _bound(wait), self._runner.submit(submission), then=then)
        except TimeoutError as exc:
            raise StoreUnclearError(
                "The database does not answer in time, and it is not known whether the message was accepted; if so, "
                f"the turn {turn_id} answers it. Send the same message again in a moment: it joins that turn."
            ) from exc

    async def _wait(
        self,
        principal: Principal,
        known: RunningTurn | Turn,
        started: float,
        wait: timedelta,
        report: ProgressReport | None,
        deadline: Deadline | None = None,
    ) -> Turn:
        until = started + wait.total_seconds()
        run = known if isinstance(known, RunningTurn) else self._runner.find(principal, known.id)
        if run is not None:
            with closing(Deadline()) if deadline is None else nullcontext(deadline) as waiting:
                turn = await self._follower.wait_here(run, until, report, started, waiting)
        elif isinstance(known, RunningTurn):
            raise AssertionError
        elif known.status.is_final:
            turn = known
        else:
            within = max(0.0, started + _bound(wait) - self._clock.monotonic())
            turn = await self._follower.wait_elsewhere(principal, known, until, report, started, within=within)
        return turn


async def _within(wait: timedelta, work: Awaitable[T]) -> T:
    async with store_answers_within(_bound(wait)):
        return await work


def _bound(wait: timedelta) -> float:
    return (max(wait, _LEAST_WAIT) + _MARGIN).total_seconds()


def _target(turn_id: TurnId) -> AuditTarget:
    return AuditTarget("turn", str(turn_id))
