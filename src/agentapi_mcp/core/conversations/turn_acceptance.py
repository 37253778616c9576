"""Accept messages: each is stored once, and answered by one turn."""

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from agentapi_mcp.base import log_context
from agentapi_mcp.base.errors import (
    AgentApiError,
    ConflictError,
    LimitExceededError,
    NextStep,
    StoreBusyError,
    StoreUnavailableError,
    StoreUnclearError,
)
from agentapi_mcp.base.ids import MessageId, SessionId, TurnId, new_id
from agentapi_mcp.base.spellings import named
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.budgets.models import NANOS, Expense
from agentapi_mcp.core.catalogue.agents import Agents, Choice
from agentapi_mcp.core.catalogue.means import Wallet
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.catalogue.policy import read_settings
from agentapi_mcp.core.conversations.expenses import expense_of
from agentapi_mcp.core.conversations.history import join_instructions
from agentapi_mcp.core.conversations.joining import Asked, Decision, decide_keyed, decide_open, decide_same
from agentapi_mcp.core.conversations.known_defaults import KnownDefaults
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    ChatEstimate,
    Defaults,
    FoundTurn,
    NewTurn,
    Obstacles,
    StaleDefaults,
    Turn,
    TurnMark,
)
from agentapi_mcp.core.conversations.parameters import merge_parameters
from agentapi_mcp.core.conversations.ports import TurnPorts
from agentapi_mcp.core.conversations.requests import CheckedRequest
from agentapi_mcp.core.conversations.turn_runner import TurnRunner
from agentapi_mcp.core.conversations.turn_work import TurnJob
from agentapi_mcp.core.identity.principals import Principal

# How long news of a caller's departure or of a delivery may be on their way here, and how often they are looked for.
_NEWS_WITHIN = timedelta(milliseconds=250)
_LOOK_EVERY = timedelta(milliseconds=50)
# After an outage, the owner of the session's turn writes its end first.
_BUSY_WITHIN = timedelta(seconds=2)
_RETRY = timedelta(milliseconds=200)
# What stands in the way can change while it is looked at; more often than this, something is wrong.
_MOST_LOOKS = 20


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What was resolved for a message, and the defaults that it was resolved by; `system` is the whole instructions."""

    defaults: Defaults
    choice: Choice
    parameters: Parameters
    system: str | None

    @property
    def sent(self) -> Parameters:
        """The parameters with the whole instructions, as the agent is sent them."""
        if self.system == self.parameters.system_prompt:
            return self.parameters
        return replace(self.parameters, system_prompt=self.system)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """Whether a turn is only looked for, and whether the answer to an earlier attempt to store it was lost."""

    refused: bool
    again: bool


class TurnAcceptance:
    """Resolve agent, model and parameters of a message, and store it, or find the turn that it belongs to."""

    def __init__(self, ports: TurnPorts, runner: TurnRunner, agents: Agents, wallet: Wallet, audit: AuditLog) -> None:
        self._turns = ports.turns
        self._sessions = ports.sessions
        self._clock = ports.clock
        self._shares = ports.shares
        self._runner = runner
        self._agents = agents
        self._wallet = wallet
        self._audit = audit
        self._known = KnownDefaults(ports.clock)

    async def accept(
        self, principal: Principal, checked: CheckedRequest, turn_id: TurnId, refused: LimitExceededError | None
    ) -> TurnJob | Turn:
        """Store the message as a new turn and return its job, or return the turn that answers it already.

        Only the latter is done where a new turn is `refused`.

        Raises:
            LimitExceededError: a new turn is refused, or would be more than a share.
            NotFoundError: there is no such agent, model or session.
            ConflictError: the session is still answering, the key belongs to another request, or the turn to
                retry was not interrupted.
        """
        again = False
        for _ in range(_MOST_LOOKS):
            known = self._known.find(principal, checked.session_id)
            defaults = known or await self._sessions.defaults(principal, checked.session_id)
            try:
                chosen = await self._choose(principal, checked, defaults)
            except AgentApiError:
                if known is None:
                    raise
                # They may have changed, since nothing can be chosen by them.
                self._known.forget(principal, checked.session_id)
                continue
            new = self._new(principal, checked, turn_id, chosen, _Attempt(refused=refused is not None, again=again))
            try:
                accepted = await self._store(principal, checked, new)
            except LimitExceededError as exc:
                raise refused or exc from None
            if isinstance(accepted, Turn):
                return replace(accepted, joined=True)
            if isinstance(accepted, AcceptedTurn):
                return self._job(principal, chosen, accepted)
            self._known.forget(principal, checked.session_id)
            again = accepted.again
        raise ConflictError("The defaults of this session change all the time. Try again in a moment.")

    async def estimate(self, principal: Principal, checked: CheckedRequest) -> ChatEstimate:
        """Resolve a message and say what its turn may cost; nothing is stored, and no agent is asked.

        Raises:
            NotFoundError: there is no such agent, model or session.
        """
        chosen = await self._choose(principal, checked, await self._sessions.defaults(principal, checked.session_id))
        choice, expense = chosen.choice, self._expense(checked, chosen)
        return ChatEstimate(
            session_id=checked.session_id,
            agent=choice.agent,
            backend=choice.declaration.backend,
            model=choice.model.name if choice.model else None,
            estimate=await self._turns.estimate(principal, checked.session_id, choice.agent, choice.paid_by, expense),
        )

    def _expense(self, checked: CheckedRequest, chosen: "_Chosen") -> Expense:
        reserve, most = self._runner.options.reserve_usd, checked.request.max_cost_usd
        expense = expense_of(chosen.choice, chosen.sent, checked.size, reserve, self._clock.now())
        return expense if most is None else replace(expense, most_nanos=int(most * NANOS))

    async def _choose(self, principal: Principal, checked: CheckedRequest, defaults: Defaults) -> "_Chosen":
        request, settings = checked.request, read_settings(defaults.settings)
        means = await self._wallet.means(principal)
        resolve = partial(
            self._agents.resolve,
            agent=request.agent or defaults.agent,
            model=request.model,
            means=means,
            settings=settings,
            preferences=request.preferences,
        )
        # The session's model is one of its agent; another agent does not have it.
        goes_on = _is_of(request.agent, defaults)
        choice = await resolve(session_model=defaults.model if goes_on else None)
        if (
            goes_on
            and checked.session_id is not None
            and request.model is None
            and Capability.BORROWS_MODELS in choice.backend.capabilities
        ):
            # The session does not know which agent lent it the model; its last turn does, also of one that is gone.
            agreed = await self._sessions.last_model(principal, checked.session_id)
            choice = await resolve(session_model=agreed)
        # Before the turn is stored: who has to connect an account again is asked to, and sends the same message.
        token = await self._wallet.token(principal, means, choice.account)
        choice = choice if token is None else replace(choice, token=token)
        preferred = request.preferences.of_agent(choice.agent)
        parameters = merge_parameters(request.parameters, defaults.metadata, preferred, settings)
        system = join_instructions(defaults.settings, choice.instructions, parameters.system_prompt)
        return _Chosen(defaults, choice, parameters, system)

    def _job(self, principal: Principal, chosen: "_Chosen", accepted: AcceptedTurn) -> TurnJob:
        defaults = chosen.defaults
        if accepted.following is not None:
            self._known.keep(principal, accepted.following)
        if defaults.session_id is None:
            self._known.keep(principal, defaults)
        return TurnJob(
            accepted=accepted,
            principal=principal,
            choice=chosen.choice,
            parameters=chosen.sent,
            defaults=defaults,
        )

    def _new(
        self, principal: Principal, checked: CheckedRequest, turn_id: TurnId, chosen: "_Chosen", attempt: "_Attempt"
    ) -> NewTurn:
        request, choice = checked.request, chosen.choice
        details = AuditDetails(agent=choice.agent, model=choice.model_name)
        target = AuditTarget("turn", str(turn_id))
        return NewTurn(
            id=turn_id,
            message_id=MessageId(new_id()),
            session_id=checked.session_id,
            new_session_id=SessionId(new_id()),
            defaults=chosen.defaults,
            paid_by=choice.paid_by,
            expense=self._expense(checked, chosen),
            agent_id=choice.agent_id,
            agent=choice.agent,
            backend=choice.declaration.backend,
            model_row_id=choice.model_row_id,
            model_row_name=choice.model_row_name,
            model=choice.model_name,
            message=request.message,
            title=checked.title,
            parameters=chosen.parameters,
            fingerprint=checked.fingerprint(principal, choice.agent, choice.model_name),
            client=log_context.client_program.get(),
            idempotency_key=request.idempotency_key,
            lease_owner=self._runner.owner,
            lease=self._runner.options.lease,
            # An old answer of one that is live would tell what was so before; asking it again costs nothing.
            join=not request.new and (request.retry or Capability.LIVE not in choice.capabilities),
            retry=request.retry,
            refused=attempt.refused,
            again=attempt.again,
            asked=not attempt.again,
            most=self._shares.most_of_users(),
            events=(self._audit.event(principal, AuditAction.TURN_ACCEPTED, target=target, details=details),),
        )

    # --- storing

    async def _store(
        self, principal: Principal, checked: CheckedRequest, new: NewTurn
    ) -> AcceptedTurn | StaleDefaults | Turn:
        asked = Asked(
            fingerprint=new.fingerprint,
            has_key=new.idempotency_key is not None,
            in_session=checked.session_id is not None,
            retry=checked.request.retry,
            new=checked.request.new,
        )
        has_waited, first = False, new
        for _ in range(_MOST_LOOKS):
            stored, new = await self._begin(principal, new)
            # A call whose answer was lost may still be running: whatever comes next looks for what it writes.
            if (first.again, first.asked) != (new.again, new.asked):
                first = replace(first, again=new.again, asked=new.asked)
            if isinstance(stored, AcceptedTurn | StaleDefaults):
                return stored
            if new.id in (stored.open_turn, stored.keyed_turn):
                new = replace(new, again=True)  # what stands in the way is what this call had written before
                continue
            asked = replace(asked, late=new.again)
            found, decision = await self._decide(principal, stored, asked, has_waited=has_waited)
            _refuse(decision, found.turn)
            if decision is Decision.JOIN or (
                decision is Decision.SETTLE and not await self._settle(principal, found, asked)
            ):
                # Before the owner, about to abandon the turn, looks whether a caller is back.
                followed_at = await self._turns.mark(principal, found.turn.id, TurnMark.FOLLOWED)
                # Where it begins here, and the answer to that was lost: else nobody would hear when this caller leaves.
                await self._runner.accepted(found.turn.id)
                self._runner.callers.came_back(found.turn, followed_at)
                return found.turn
            if decision is Decision.AWAIT_NEWS:
                await self._await_news(principal, found)
                has_waited = True
            elif decision is Decision.REFUSE_BUSY:
                await self._await_end(principal, found, asked)
            else:
                new = _despite(first, found, decision, is_first=new.replaces is None)
        raise ConflictError("Other requests with this message come at the same time. Try again in a moment.")

    async def _begin(
        self, principal: Principal, new: NewTurn
    ) -> tuple[AcceptedTurn | Obstacles | StaleDefaults, NewTurn]:
        """Store the turn, and return what was asked for last.

        Where the answer was lost, it is looked for by its own ids until it is clear whether it stands.
        """
        while True:
            try:
                return await self._turns.begin(principal, new), new
            except StoreUnclearError:
                # Not asked until it is known to stand, so that asked_at tells the truth if this process dies meanwhile.
                new = replace(new, again=True, asked=False)
                self._runner.watch.failed()
            except StoreUnavailableError:
                if not new.again:
                    raise
                self._runner.watch.failed()
            except StoreBusyError:
                if not new.again:  # otherwise the call before may be what keeps the session locked
                    raise
            await self._clock.sleep(_RETRY)
            await self._runner.watch.until_up()

    async def _decide(
        self, principal: Principal, obstacles: Obstacles, asked: Asked, *, has_waited: bool
    ) -> tuple[FoundTurn, Decision]:
        if obstacles.keyed_turn is not None:
            found = await self._latest(principal, obstacles.keyed_turn)
            return found, decide_keyed(found, asked)
        if obstacles.same_turn is not None:
            found = await self._latest(principal, obstacles.same_turn)
            return found, decide_same(found, asked, has_waited=has_waited)
        if obstacles.open_turn is None:
            raise AssertionError
        found = await self._turns.find(principal, obstacles.open_turn)
        return found, decide_open(found, asked)

    async def _latest(self, principal: Principal, turn_id: TurnId) -> FoundTurn:
        """Find a turn, or the one that has asked it again last."""
        found = await self._turns.find(principal, turn_id)
        while found.replaced_by is not None:
            found = await self._turns.find(principal, found.replaced_by)
        return found

    async def _await_news(self, principal: Principal, found: FoundTurn) -> None:
        """Wait for a moment until it is known whether the turn's answer arrived or its caller left."""
        await self._runner.callers.news.publish()
        until = self._clock.monotonic() + _NEWS_WITHIN.total_seconds()
        while self._clock.monotonic() < until:
            now = await self._turns.find(principal, found.turn.id)
            if now.delivered or now.caller_left or now.turn.status is not found.turn.status:
                return
            await self._clock.sleep(_LOOK_EVERY)

    async def _settle(self, principal: Principal, found: FoundTurn, asked: Asked) -> bool:
        """Settle a turn whose owner may be dead; where that is not known yet, its own request waits for its end.

        Raises:
            ConflictError: it is the turn of another message, which is not answered yet.
        """
        if await self._runner.settle(found):
            return True
        if found.fingerprint == asked.fingerprint:
            return False
        await self._await_end(principal, found, asked)
        return True

    async def _await_end(self, principal: Principal, found: FoundTurn, asked: Asked) -> None:
        """Wait for the end of the session's turn where it was answered already, and refuse the message otherwise.

        Raises:
            ConflictError: the session is still answering.
        """
        run = self._runner.find(principal, found.turn.id)
        if run is None and self._runner.watch.had_for(self._runner.options.lease):
            raise _busy(found, asked)
        if run is not None and not run.answered.is_set():
            raise _busy(found, asked)
        until = self._clock.monotonic() + _BUSY_WITHIN.total_seconds()
        while self._clock.monotonic() < until:
            if (await self._turns.find(principal, found.turn.id)).turn.status.is_final:
                return
            await self._clock.sleep(_LOOK_EVERY)
        raise _busy(found, asked)


def _is_of(agent: str | None, defaults: Defaults) -> bool:
    """Return whether the agent that was asked for, if any, is the session's, in whatever spelling."""
    own = defaults.agent
    if agent is None or agent == own:
        return True
    return own is not None and named(agent, (own,)) is not None


def _busy(found: FoundTurn, asked: Asked) -> ConflictError:
    # The same one is refused as well where it has a key of its own, or is to be asked anew.
    what = "this message already" if found.fingerprint == asked.fingerprint else "another message"
    return ConflictError(
        f"This session is answering {what} (turn {found.turn.id}).",
        turn_id=str(found.turn.id),
        next_step=NextStep.WAIT_OR_CANCEL,
    )


def _refuse(decision: Decision, turn: Turn) -> None:
    if decision is Decision.REFUSE_KEY:
        raise ConflictError(
            "This idempotency key was used for another request in the last 24 hours; use a new key for a new message.",
            turn_id=str(turn.id),
        )
    if decision is Decision.REFUSE_RETRY:
        raise ConflictError(
            f"The turn {turn.id} of this message was not interrupted (it is {turn.status}), so there is nothing to "
            "retry.",
            turn_id=str(turn.id),
            next_step=NextStep.LEAVE_RETRY_OUT,
        )


def _despite(new: NewTurn, found: FoundTurn, decision: Decision, *, is_first: bool) -> NewTurn:
    """Return the turn to begin in place of one that was found, the first one or another, or beside it."""
    if decision is Decision.ASK_AGAIN and found.turn.id == new.id:
        raise StoreUnavailableError(
            "The message was accepted, and interrupted before the agent was asked; nothing was billed: send it again."
        )
    if decision is Decision.ASK_AGAIN:
        # Others of this request may stand there, too: a retry asks the one that it found, and of those that were not
        # asked, one is enough.
        looks_on = is_first and not new.retry
        return replace(new, session_id=found.turn.session_id, replaces=found.turn.id, join=looks_on)
    return replace(new, join=False) if decision is Decision.BEGIN else new
