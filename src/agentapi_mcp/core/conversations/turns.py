"""The use case: a message to an agent, from acceptance to answer, waited for or not."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import ConflictError, NextStep, StoreError
from agentapi_mcp.base.ids import TurnId, new_id, parse_id
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditOutcome, AuditTarget
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck, HistoryMessage, MessageRole
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.catalogue.agents import Agents, Choice
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.catalogue.policy import read_settings
from agentapi_mcp.core.conversations.history import TokenRatios, fit_history, history_budget, join_instructions
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Busy,
    Defaults,
    EndReason,
    History,
    Joined,
    NewTurn,
    SessionState,
    Turn,
    TurnEnded,
    TurnEvent,
    TurnMark,
    TurnStatus,
)
from agentapi_mcp.core.conversations.parameters import merge_parameters
from agentapi_mcp.core.conversations.ports import SessionCache, SessionStore, TurnEvents
from agentapi_mcp.core.conversations.ports import TurnStore as Store
from agentapi_mcp.core.conversations.remote_turns import (
    REPORT_AT_LEAST_EVERY,
    REPORT_EVERY,
    TAIL,
    Progress,
    RemoteTurns,
    ReportProgress,
)
from agentapi_mcp.core.conversations.requests import ChatRequest, CheckedRequest, check_request, check_wait
from agentapi_mcp.core.conversations.turn_runner import RunningTurn, TurnJob, TurnRunner
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.api_keys import ApiKeys
from agentapi_mcp.core.signals import Signals

_WAIT_FOR_WRITE = timedelta(seconds=3)
_WAIT_FOR_CANCEL = timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPorts:
    """What the turns are kept in and told by."""

    turns: Store
    sessions: SessionStore
    cache: SessionCache
    events: TurnEvents
    signals: Signals
    clock: Clock


class Turns:
    """Messages to agents: each is accepted once, run once, and found again by its id."""

    def __init__(
        self, ports: TurnPorts, runs: TurnRunner, agents: Agents, health: Health, api_keys: ApiKeys, audit: AuditLog
    ) -> None:
        self._ports = ports
        self._runs = runs
        self._agents = agents
        self._health = health
        self._api_keys = api_keys
        self._audit = audit
        self._ratios = TokenRatios()
        self._elsewhere = RemoteTurns(ports.turns, ports.events, ports.signals, ports.clock)

    async def chat(
        self, principal: Principal, request: ChatRequest, *, wait: timedelta, report: ReportProgress | None = None
    ) -> Turn:
        """Send a message and wait for the answer; when the wait is over first, the turn is returned as it runs on.

        Raises:
            InvalidRequestError: an argument cannot be meant.
            NotFoundError: there is no such agent, model or session.
            ConflictError: the session answers another message, or the idempotency key was used for another request.
            BackendError: the agent lacks something that it needs.
        """
        check_wait(wait)
        taken = await self._take(principal, request)
        if isinstance(taken, RunningTurn):
            return await self._wait_here(taken, wait, report)
        return await self._wait(principal, taken, wait, report)

    async def start(self, principal: Principal, request: ChatRequest) -> Turn:
        """Send a message and do not wait; whoever started it answers for following it."""
        taken = await self._take(principal, request)
        if isinstance(taken, Turn):
            return taken
        await self._answer_running(taken)
        return taken.snapshot()

    async def get(
        self,
        principal: Principal,
        turn_id: str,
        *,
        wait: timedelta = timedelta(0),
        report: ReportProgress | None = None,
    ) -> Turn:
        """Read a turn, and wait for its end if there is time; from any process."""
        require(principal, Action.READ_SESSIONS)
        check_wait(wait)
        turn = await self._ports.turns.get(principal, TurnId(parse_id(turn_id, "turn_id")))
        return await self._wait(principal, turn, wait, report)

    async def cancel(self, principal: Principal, turn_id: str) -> Turn:
        """End a turn now, from any process; one that has ended stays as it is."""
        require(principal, Action.CHAT)
        turn = await self._ports.turns.request_cancel(principal, TurnId(parse_id(turn_id, "turn_id")))
        if not turn.status.is_final:
            await self._audit.record(principal, AuditAction.TURN_CANCELLED, target=_target(turn))
        run = self._runs.find(turn.id)
        if run is not None:
            self._runs.stop(run, EndReason.CANCEL_TURN)
        return turn if turn.status.is_final else await self._wait(principal, turn, _WAIT_FOR_CANCEL, None)

    async def follow(self, principal: Principal, turn: Turn) -> AsyncGenerator[TurnEvent]:
        """Tell what a turn says: the text so far, then each event; from another process only what has been saved."""
        run = self._runs.find(turn.id)
        if run is None:
            async for event in self._elsewhere.follow(principal, turn):
                yield event
            return
        async with self._runs.following(run), self._ports.events.follow(turn.id) as events:
            if run.answer.characters:
                yield TextDelta(run.answer.text)
            if run.written.is_set():
                yield TurnEnded(self._ports.clock.now())
                return
            async for event in events:
                yield event

    async def recent(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the principal's newest turns, newest first."""
        require(principal, Action.READ_SESSIONS)
        return await self._ports.turns.recent(principal, limit)

    async def drain(self) -> None:
        """Take no new messages, and let the running turns end or be settled; for a process that is about to stop."""
        await self._runs.drain()

    def hurry(self) -> None:
        """Let `drain` settle the running turns at once."""
        self._runs.hurry()

    # --- accepting

    async def _take(self, principal: Principal, request: ChatRequest) -> RunningTurn | Turn:
        require(principal, Action.CHAT)
        checked = check_request(request)
        return await self._runs.detach(lambda: self._accept(principal, checked))

    async def _accept(self, principal: Principal, checked: CheckedRequest) -> TurnJob | Turn:
        request = checked.request
        defaults = await self._ports.sessions.defaults(principal, checked.session_id)
        settings = read_settings(defaults.settings)
        choice = await self._agents.resolve(
            agent=request.agent or defaults.agent,
            model=request.model,
            session_model=defaults.model if request.agent in (None, defaults.agent) else None,
            held=await self._api_keys.held(principal),
            settings=settings,
            preferences=request.preferences,
        )
        chosen = request.preferences.of_agent(choice.agent)
        parameters = merge_parameters(request.parameters, defaults.metadata, chosen, settings)
        new = NewTurn(
            id=TurnId(new_id()),
            session_id=checked.session_id,
            agent_id=choice.agent_id,
            agent=choice.agent,
            backend=choice.declaration.backend,
            model_row_id=choice.model_row_id,
            model=choice.model.name if choice.model else None,
            message=request.message,
            title=checked.title,
            parameters=parameters,
            fingerprint=checked.fingerprint(principal),
            idempotency_key=request.idempotency_key,
            lease_owner=self._runs.owner,
            lease=self._runs.options.lease,
        )
        match await self._ports.turns.accept(principal, new):
            case Joined(turn):
                return turn
            case Busy(turn_id):
                raise ConflictError(
                    f"This session is answering another message (turn {turn_id}).",
                    turn_id=str(turn_id),
                    next_step=NextStep.WAIT_OR_CANCEL,
                )
            case accepted:
                details = AuditDetails(agent=new.agent, model=new.model)
                await self._audit.record(
                    principal, AuditAction.TURN_ACCEPTED, target=_target(accepted.turn), details=details
                )
                system = join_instructions(defaults.settings, choice.instructions, parameters.system_prompt)
                told = replace(parameters, system_prompt=system)
                return self._assign(principal, accepted, choice, told, defaults)

    def _assign(
        self,
        principal: Principal,
        accepted: AcceptedTurn,
        choice: Choice,
        parameters: Parameters,
        defaults: Defaults,
    ) -> TurnJob:
        async def prepare() -> tuple[BackendTurn, History]:
            return await self._prepare(principal, accepted, choice, parameters)

        async def observe(check: HealthCheck) -> None:
            if choice.key is None:  # how one's own key fares says nothing of the agent to others
                await self._health.observe(choice.agent_id, check)

        async def settled(turn: Turn, history: History | None, prompt_bytes: int) -> None:
            await self._record_end(principal, turn)
            used = turn.bill.usage.input_tokens
            if used is not None:
                self._ratios.learn(turn.bill.model_used or choice.agent, prompt_bytes, used)
            grown: History | None = None
            if history is not None and turn.last_message_id is not None:
                said = (HistoryMessage(MessageRole.USER, turn.message),)
                if turn.reply:
                    said = (*said, HistoryMessage(MessageRole.ASSISTANT, turn.reply))
                grown = History((*history.messages, *said), history.dropped, turn.last_message_id)
            await self._ports.cache.keep(turn.session_id, _state(turn, defaults), grown)

        return TurnJob(
            accepted=accepted,
            principal=principal,
            backend=choice.backend,
            prices=choice.prices,
            whose=choice.whose,
            prepare=prepare,
            observe=observe,
            settled=settled,
        )

    async def _prepare(
        self, principal: Principal, accepted: AcceptedTurn, choice: Choice, parameters: Parameters
    ) -> tuple[BackendTurn, History]:
        turn, system = accepted.turn, parameters.system_prompt
        if choice.key is not None:
            await self._api_keys.mark_used(choice.key)
        history = History(())
        remembers = Capability.RESUME in choice.backend.capabilities and bool(accepted.state)
        if not accepted.session_created and not remembers:
            fixed = len(turn.message.encode()) + len((system or "").encode())
            ratio = self._ratios.get(choice.model.model_id if choice.model else choice.agent)
            budget = history_budget(choice.context_window, parameters.max_tokens, fixed, ratio)
            kept, last = None, accepted.previous_message_id
            if last is not None:
                kept = await self._ports.cache.find(turn.session_id, last)
            if kept is None:
                kept = await self._ports.sessions.history(principal, turn.session_id, turn.id, budget)
            history = fit_history(kept, budget)
        return (
            BackendTurn(
                turn_id=turn.id,
                session_id=turn.session_id,
                principal=principal,
                message=turn.message,
                model_id=choice.model.model_id if choice.model else None,
                system=system,
                history=history.messages,
                temperature=parameters.temperature,
                max_tokens=parameters.max_tokens,
                api_key=choice.key.value if choice.key else None,
                state=accepted.state,
            ),
            history,
        )

    async def _record_end(self, principal: Principal, turn: Turn) -> None:
        usage = turn.bill.usage
        details = AuditDetails(
            agent=turn.agent,
            model=turn.bill.model_used or turn.model,
            status=turn.status,
            reason=turn.end_reason,
            cost_usd=None if usage.cost_usd is None else float(usage.cost_usd),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )
        failed = turn.status in {TurnStatus.FAILED, TurnStatus.INTERRUPTED}
        outcome = AuditOutcome.FAILED if failed else AuditOutcome.OK
        await self._audit.record(
            principal, AuditAction.TURN_ENDED, target=_target(turn), outcome=outcome, details=details
        )

    # --- waiting

    async def _wait(self, principal: Principal, turn: Turn, wait: timedelta, report: ReportProgress | None) -> Turn:
        run = self._runs.find(turn.id)
        if run is not None:
            return await self._wait_here(run, wait, report)
        if not turn.status.is_final:
            turn = await self._elsewhere.wait(principal, turn, wait, report)
        if turn.status.is_final:
            await self._mark(principal, turn, TurnMark.DELIVERED)
        return turn

    async def _wait_here(self, run: RunningTurn, wait: timedelta, report: ReportProgress | None) -> Turn:
        started = self._ports.clock.monotonic()
        async with self._runs.following(run):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    if report is None:
                        await run.answered.wait()
                    else:
                        await self._report_until_answered(run, report, started)
            if run.answered.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_WAIT_FOR_WRITE.total_seconds()):
                        await run.written.wait()
            else:
                await self._answer_running(run)
            return run.snapshot()

    async def _report_until_answered(self, run: RunningTurn, report: ReportProgress, started: float) -> None:
        told, told_at = -1, started
        while not run.answered.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_EVERY.total_seconds()):
                    await (run.answered if run.begun.is_set() else run.begun).wait()
            now = self._ports.clock.monotonic()
            due = now - told_at >= REPORT_AT_LEAST_EVERY.total_seconds()
            if run.answered.is_set() or (run.answer.characters == told and not due):
                continue
            told, told_at = run.answer.characters, now
            await report(Progress(told, run.answer.tail(TAIL), timedelta(seconds=now - started), run.answer.activity))

    async def _answer_running(self, run: RunningTurn) -> None:
        if not run.answered_running:
            run.answered_running = True
            await self._mark(run.assignment.principal, run.snapshot(), TurnMark.ANSWERED_RUNNING)

    async def _mark(self, principal: Principal, turn: Turn, mark: TurnMark) -> None:
        with suppress(StoreError):  # a mark that is lost costs a repeated answer, never a turn
            await self._ports.turns.mark(principal, turn.id, mark)


def _target(turn: Turn) -> AuditTarget:
    return AuditTarget("turn", str(turn.id))


def _state(turn: Turn, defaults: Defaults) -> SessionState:
    return SessionState(
        user_id=turn.user_id,
        org_id=turn.org_id,
        agent=turn.agent,
        model=turn.model,
        metadata=defaults.metadata,
    )
