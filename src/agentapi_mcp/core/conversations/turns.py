"""Send messages to agents, and wait for, follow, read and cancel their turns."""

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

# The answer is known by then; if the database is slow, it is returned with `saved: false`.
_WAIT_FOR_WRITE = timedelta(seconds=3)
# Longer than a lease, after which any process settles the turn of one that died.
_WAIT_FOR_CANCEL = timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPorts:
    """Storage, cache, events and clock of the turns."""

    turns: Store
    sessions: SessionStore
    cache: SessionCache
    events: TurnEvents
    signals: Signals
    clock: Clock


class Turns:
    """Use cases of turns: each message is accepted once, run once, and found again by its id."""

    def __init__(
        self, ports: TurnPorts, runner: TurnRunner, agents: Agents, health: Health, api_keys: ApiKeys, audit: AuditLog
    ) -> None:
        self._ports = ports
        self._runner = runner
        self._agents = agents
        self._health = health
        self._api_keys = api_keys
        self._audit = audit
        self._ratios = TokenRatios()
        self._remote_turns = RemoteTurns(ports.turns, ports.events, ports.signals, ports.clock)

    async def chat(
        self, principal: Principal, request: ChatRequest, *, wait: timedelta, report: ReportProgress | None = None
    ) -> Turn:
        """Send a message and wait for the answer; after `wait`, return the turn while it continues to run.

        Raises:
            InvalidRequestError: an argument is invalid.
            NotFoundError: there is no such agent, model or session.
            ConflictError: the session is answering another message, or the idempotency key belongs to another request.
            BackendError: the agent is not fully configured.
        """
        check_wait(wait)
        submitted = await self._submit(principal, request)
        if isinstance(submitted, RunningTurn):
            return await self._wait_here(submitted, wait, report)
        return await self._wait(principal, submitted, wait, report)

    async def start(self, principal: Principal, request: ChatRequest) -> Turn:
        """Send a message without waiting; the turn runs even if no caller follows it."""
        submitted = await self._submit(principal, request)
        if isinstance(submitted, Turn):
            return submitted
        await self._answer_running(submitted)
        return submitted.snapshot()

    async def get(
        self,
        principal: Principal,
        turn_id: str,
        *,
        wait: timedelta = timedelta(0),
        report: ReportProgress | None = None,
    ) -> Turn:
        """Read a turn, and wait up to `wait` for its end; it may run in any process."""
        require(principal, Action.READ_SESSIONS)
        check_wait(wait)
        turn = await self._ports.turns.get(principal, TurnId(parse_id(turn_id, "turn_id")))
        return await self._wait(principal, turn, wait, report)

    async def cancel(self, principal: Principal, turn_id: str) -> Turn:
        """Cancel a turn, in whichever process it runs; a turn that has ended is not changed."""
        require(principal, Action.CHAT)
        turn = await self._ports.turns.request_cancel(principal, TurnId(parse_id(turn_id, "turn_id")))
        if not turn.status.is_final:
            await self._audit.record(principal, AuditAction.TURN_CANCELLED, target=_target(turn))
        run = self._runner.find(turn.id)
        if run is not None:
            # At once if it runs here, without the detour of the notification.
            self._runner.stop(run, EndReason.CANCEL_TURN)
        return turn if turn.status.is_final else await self._wait(principal, turn, _WAIT_FOR_CANCEL, None)

    async def follow(self, principal: Principal, turn: Turn) -> AsyncGenerator[TurnEvent]:
        """Yield the text so far, then each event; without Redis, a turn of another process yields stored text only."""
        require(principal, Action.READ_SESSIONS)
        run = self._runner.find(turn.id)
        if run is None:
            async for event in self._remote_turns.follow(principal, turn):
                yield event
            return
        # Subscribe before reading the text so far: no event is lost between the two.
        async with self._runner.following(run), self._ports.events.follow(turn.id) as events:
            if run.answer.characters:
                yield TextDelta(run.answer.text)
            if run.written.is_set():
                yield TurnEnded(self._ports.clock.now())
                return
            async for event in events:
                yield event

    async def recent(self, principal: Principal, limit: int) -> tuple[Turn, ...]:
        """List the caller's newest turns, newest first; needs the right to read sessions."""
        require(principal, Action.READ_SESSIONS)
        return await self._ports.turns.recent(principal, limit)

    async def drain(self) -> None:
        """Refuse new messages, and let the running turns end or interrupt them; for a process that shuts down."""
        await self._runner.drain()

    def stop_now(self) -> None:
        """Make `drain` interrupt the running turns at once."""
        self._runner.stop_now()

    # --- accepting

    async def _submit(self, principal: Principal, request: ChatRequest) -> RunningTurn | Turn:
        require(principal, Action.CHAT)
        checked = check_request(request)
        return await self._runner.submit(lambda: self._accept(principal, checked))

    async def _accept(self, principal: Principal, checked: CheckedRequest) -> TurnJob | Turn:
        request = checked.request
        defaults = await self._ports.sessions.defaults(principal, checked.session_id)
        settings = read_settings(defaults.settings)
        choice = await self._agents.resolve(
            agent=request.agent or defaults.agent,
            model=request.model,
            # The session's model is one of its agent; another agent does not have it.
            session_model=defaults.model if request.agent in (None, defaults.agent) else None,
            keys=await self._api_keys.available(principal),
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
            lease_owner=self._runner.owner,
            lease=self._runner.options.lease,
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
                effective = replace(parameters, system_prompt=system)
                return self._make_job(principal, accepted, choice, effective, defaults)

    def _make_job(
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
            if choice.key is None:  # a failure of the caller's own key says nothing about the agent
                await self._health.observe(choice.agent_id, check)

        async def settled(turn: Turn, history: History | None, prompt_bytes: int) -> None:
            await self._record_end(principal, turn)
            used = turn.bill.usage.input_tokens
            if used is not None:
                self._ratios.learn(turn.bill.model_used or choice.agent, prompt_bytes, used)
            grown: History | None = None
            if history is not None and turn.last_message_id is not None:
                # The cache gets the session as the next turn will need it.
                added = (HistoryMessage(MessageRole.USER, turn.message),)
                if turn.reply:
                    added = (*added, HistoryMessage(MessageRole.ASSISTANT, turn.reply))
                grown = History((*history.messages, *added), history.dropped, turn.last_message_id)
            await self._ports.cache.save(turn.session_id, _state(turn, defaults), grown)

        return TurnJob(
            accepted=accepted,
            principal=principal,
            backend=choice.backend,
            prices=choice.prices,
            key_source=choice.key_source,
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
        resumes = Capability.RESUME in choice.backend.capabilities and bool(accepted.state)
        # An agent that resumes from its own state has the history already.
        if not accepted.session_created and not resumes:
            fixed = len(turn.message.encode()) + len((system or "").encode())
            ratio = self._ratios.get(choice.model.model_id if choice.model else choice.agent)
            budget = history_budget(choice.context_window, parameters.max_tokens, fixed, ratio)
            found, last = None, accepted.previous_message_id
            if last is not None:
                # Valid only if it ends with the message that accept found: another process may have written since.
                found = await self._ports.cache.find(turn.session_id, last)
            if found is None:
                found = await self._ports.sessions.history(principal, turn.session_id, turn.id, budget)
            history = fit_history(found, budget)
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
        run = self._runner.find(turn.id)
        if run is not None:
            return await self._wait_here(run, wait, report)
        if not turn.status.is_final:
            turn = await self._remote_turns.wait(principal, turn, wait, report)
        if turn.status.is_final:
            await self._mark(principal, turn, TurnMark.DELIVERED)
        return turn

    async def _wait_here(self, run: RunningTurn, wait: timedelta, report: ReportProgress | None) -> Turn:
        started = self._ports.clock.monotonic()
        async with self._runner.following(run):
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
        reported, reported_at = -1, started
        while not run.answered.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_EVERY.total_seconds()):
                    await (run.answered if run.begun.is_set() else run.begun).wait()
            now = self._ports.clock.monotonic()
            due = now - reported_at >= REPORT_AT_LEAST_EVERY.total_seconds()
            if run.answered.is_set() or (run.answer.characters == reported and not due):
                continue
            reported, reported_at = run.answer.characters, now
            elapsed = timedelta(seconds=now - started)
            await report(Progress(reported, run.answer.tail(TAIL), elapsed, run.answer.activity))

    async def _answer_running(self, run: RunningTurn) -> None:
        if not run.answered_running:
            run.answered_running = True
            await self._mark(run.job.principal, run.snapshot(), TurnMark.ANSWERED_RUNNING)

    async def _mark(self, principal: Principal, turn: Turn, mark: TurnMark) -> None:
        with suppress(StoreError):  # a lost mark costs a repeated answer, never a turn
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
