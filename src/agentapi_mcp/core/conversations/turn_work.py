"""What a turn needs before its agent is asked, and what remains to be done after its end."""

from dataclasses import dataclass

from agentapi_mcp.core.access.models import MembershipStatus
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditEvent, AuditOutcome, AuditTarget
from agentapi_mcp.core.backends.models import BackendTurn, HealthCheck
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.catalogue.agents import Choice
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.means import Wallet
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.history import (
    AskedModel,
    TokenRatios,
    fit_history,
    history_budget,
    longest_answer,
)
from agentapi_mcp.core.conversations.kept_messages import TurnOutcome, history_after
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Defaults,
    History,
    SessionState,
    Turn,
    TurnStatus,
    bytes_of,
)
from agentapi_mcp.core.conversations.ports import SessionCache, SessionStore, TurnMetrics
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import KeySource


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnJob:
    """An accepted turn, and what was resolved for it."""

    accepted: AcceptedTurn
    principal: Principal
    choice: Choice
    parameters: Parameters
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class Prompt:
    """What was sent with a message: `history` is what stands before it, None for an agent that has it already.

    `dropped` counts the older messages that were not sent, `size` the bytes of all that was.
    """

    history: History | None
    dropped: int = 0
    size: int = 0


class TurnWork:
    """The work around the answer: the history before it; cache, token ratios, health and the audit log after it."""

    def __init__(
        self,
        sessions: SessionStore,
        cache: SessionCache,
        metrics: TurnMetrics,
        health: Health,
        wallet: Wallet,
        audit: AuditLog,
    ) -> None:
        self._sessions = sessions
        self._cache = cache
        self._metrics = metrics
        self._health = health
        self._wallet = wallet
        self._audit = audit
        self._ratios = TokenRatios()

    async def prepare(self, job: TurnJob) -> tuple[BackendTurn, Prompt]:
        """Return what the backend is asked, and what it is sent by that."""
        choice, accepted, parameters = job.choice, job.accepted, job.parameters
        turn = accepted.turn
        await self._wallet.mark_used(job.principal, choice.key)
        fixed = bytes_of(turn.message) + bytes_of(parameters.system_prompt or "")
        history = await self._history(job, fixed)
        sent = History(()) if history is None else history.before(turn.message)
        asks, longest = parameters.max_tokens is not None, _longest_answer(job)
        return (
            BackendTurn(
                turn_id=turn.id,
                session_id=turn.session_id,
                principal=job.principal,
                message=turn.message,
                model_id=choice.model.model_id if choice.model else None,
                system=parameters.system_prompt,
                history=sent.messages,
                temperature=parameters.temperature,
                max_tokens=longest if asks else None,
                max_output_tokens=None if asks else longest,
                api_key=choice.key.value if choice.key else None,
                access_token=choice.token.value if choice.token else None,
                state=accepted.state,
                writer=choice.writer,
            ),
            Prompt(history, sent.dropped, fixed + sent.size),
        )

    def end_events(self, job: TurnJob, turn: Turn) -> tuple[AuditEvent, ...]:
        """Return the events of the audit log that are stored with the end of a turn."""
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
        target = AuditTarget("turn", str(turn.id))
        return (
            self._audit.event(job.principal, AuditAction.TURN_ENDED, target=target, outcome=outcome, details=details),
        )

    def stopped_event(self, job: TurnJob, status: MembershipStatus) -> AuditEvent:
        """Return the event of a turn that is stopped because of the membership of its user."""
        target, details = AuditTarget("turn", str(job.accepted.turn.id)), AuditDetails(reason=status)
        return self._audit.event(job.principal, AuditAction.TURN_STOPPED, target=target, details=details)

    async def settled(self, job: TurnJob, turn: Turn, prompt: Prompt | None) -> None:
        """Learn from a stored turn, count it, and cache its session as the next turn will need it."""
        self._metrics.note(job.choice.agent_id, turn)
        used, grown = turn.bill.usage.input_tokens, None
        if prompt is not None and prompt.history is not None:
            if used is not None:
                self._ratios.learn(_asked_model(job.choice), prompt.size, used)
            if turn.last_message_id is not None:
                outcome = TurnOutcome(turn.status, turn.error and turn.error.fault, turn.stop_reason)
                grown = history_after(prompt.history, turn.message, turn.reply, outcome, turn.last_message_id)
        state = SessionState(
            user_id=turn.user_id,
            org_id=turn.org_id,
            agent=turn.agent,
            model=turn.model,
            metadata=job.defaults.metadata,
        )
        await self._cache.save(turn.session_id, state, grown)

    async def observe(self, job: TurnJob, check: HealthCheck) -> None:
        """Count the outcome as a measurement of the agent's health."""
        # A failure of the caller's own key or account says nothing about the agent.
        if job.choice.key_source is KeySource.SERVER:
            await self._health.observe(job.choice.agent_id, check)

    async def _history(self, job: TurnJob, fixed: int) -> History | None:
        """Return what stands before the message, as far as it fits beside `fixed` bytes; None if it is not needed."""
        choice, accepted = job.choice, job.accepted
        if accepted.session_created:
            return History(())
        if Capability.RESUME in choice.capabilities and accepted.state:
            return None  # the agent resumes from its own state
        turn = accepted.turn
        ratio = self._ratios.get(_asked_model(choice))
        budget = history_budget(choice.context_window, _longest_answer(job), fixed, ratio)
        found, last = None, accepted.previous_message_id
        # What is cached holds the turn that this one replaces.
        if last is not None and not accepted.replaces:
            # Valid only if it ends with the message that accept found: another process may have written since.
            found = await self._cache.find(turn.session_id, last)
        if found is None:
            found = await self._sessions.history(job.principal, turn.session_id, turn.id, budget)
        return fit_history(found, budget)


def _asked_model(choice: Choice) -> AskedModel:
    return choice.agent_id, choice.model.model_id if choice.model else None


def _longest_answer(job: TurnJob) -> int | None:
    choice = job.choice
    return longest_answer(job.parameters.max_tokens, choice.max_output_tokens, choice.context_window)
