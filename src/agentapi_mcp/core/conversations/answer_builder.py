"""Accumulate the events of a running turn into its reply, cost and outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault, sentences
from agentapi_mcp.base.ids import MessageId
from agentapi_mcp.base.money import Prices
from agentapi_mcp.base.text import one_line, quoted, storable
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.conversations.costs import NOT_ASKED, REFUSED, cost_of, plausible
from agentapi_mcp.core.conversations.models import Ending, EndReason, RouteStep, Turn, TurnCost, TurnFault, TurnStatus
from agentapi_mcp.core.keys.mending import Payer

_STATUS_OF_STOP: dict[EndReason, TurnStatus] = {
    EndReason.CANCEL_TURN: TurnStatus.CANCELLED,
    EndReason.ABANDONED: TurnStatus.CANCELLED,
    EndReason.ACCESS_REVOKED: TurnStatus.CANCELLED,
    EndReason.SHUTDOWN: TurnStatus.INTERRUPTED,
    EndReason.LEASE_EXPIRED: TurnStatus.INTERRUPTED,
}
_LONGEST_DESCRIPTION = 300  # characters
_INTERNAL = TurnFault(
    None,
    "The server failed while it ran this turn; its log has the details.",
    "Send the message again.",
    retryable=True,
)


@dataclass(slots=True)
class AnswerBuilder:
    """The state of an answer: text, usage, outcome, and the timestamps for latency and time to first token.

    `prices_at` tells what the model costs at a moment, `model_description` what the catalogue says of it. `asked` is
    whether the agent was asked, and `is_refusal` whether it refused before any work.
    """

    clock: Clock
    prices_at: Callable[[datetime], Prices]
    may_go_on_billing: bool
    payer: Payer = field(default_factory=Payer)
    model_description: str | None = None
    started: float = 0.0
    first_token: float | None = None
    ended: float | None = None
    ended_at: datetime | None = None
    parts: list[str] = field(default_factory=list[str])
    characters: int = 0
    activity: str | None = None
    usage: Usage = field(default_factory=Usage)
    finished: Finished | None = None
    status: TurnStatus = TurnStatus.RUNNING
    end_reason: EndReason | None = None
    fault: TurnFault | None = None
    history_dropped: int = 0
    asked: bool = False
    is_refusal: bool = False

    def begin(self) -> None:
        """Start the latency measurement."""
        self.started = self.clock.monotonic()

    @property
    def text(self) -> str:
        """The text so far, without characters that the database cannot store."""
        # Join once and keep the result: a snapshot is taken every few seconds while deltas arrive.
        if len(self.parts) > 1:
            self.parts[:] = ["".join(self.parts)]
        return storable(self.parts[0]) if self.parts else ""

    @property
    def latency(self) -> timedelta:
        """The time from the beginning to the end, or to now."""
        now = self.clock.monotonic() if self.ended is None else self.ended
        return timedelta(seconds=now - self.started)

    def apply(self, event: BackendEvent) -> None:
        """Apply one event of the backend."""
        match event:
            case TextDelta(text):
                if text and self.first_token is None:
                    self.first_token = self.clock.monotonic()
                self.parts.append(text)
                self.characters += len(text)
                self.activity = None
            case ThoughtDelta():
                self.activity = "thinking"
            case ToolActivity(name, state):
                self.activity = f"using {quoted(name)}" if state is ToolState.STARTED else None
            case UsageReported(usage):
                self.usage = plausible(usage)
            case Finished():
                model, provider = _named(event.model), _named(event.provider)
                if (model, provider) != (event.model, event.provider):
                    event = replace(event, model=model, provider=provider)
                self.finished = event
            case _:
                pass

    def end(self, reason: EndReason | None, error: BaseException | None) -> None:
        """Determine the outcome: a regular end, a requested stop, or a fault."""
        self.ended, self.ended_at = self.clock.monotonic(), self.clock.now()
        # An answer that finished before its stop took effect is complete.
        if self.finished is not None and error is None:
            self.status, self.end_reason = TurnStatus.COMPLETED, EndReason.ANSWERED
        elif reason is not None:
            self.status, self.end_reason = _STATUS_OF_STOP[reason], reason
        elif isinstance(error, BackendError):
            self.status, self.end_reason = TurnStatus.FAILED, EndReason.FAULT
            nothing_came = not self.parts and self.activity is None and self.usage == Usage()
            self.is_refusal = error.unbilled and nothing_came
            self.fault = TurnFault(
                error.fault,
                storable(str(error)),
                self._next_step(error),
                error.may_retry,
                error.retry_after,
            )
        elif error is None:
            self.status, self.end_reason = TurnStatus.FAILED, EndReason.FAULT
            advice = FAULT_ADVICE[BackendFault.STREAM_CUT]
            self.fault = TurnFault(
                BackendFault.STREAM_CUT, "The agent stopped without an end.", advice.next_step, advice.retryable
            )
        else:
            self.status, self.end_reason, self.fault = TurnStatus.FAILED, EndReason.INTERNAL, _INTERNAL

    def _next_step(self, error: BackendError) -> str:
        """Return the next step, with what is known here of the model or of who pays."""
        if error.fault is BackendFault.NOT_FOUND and self.model_description:
            # What the catalogue warns of ("withdrawn on …") is most often why. It is a row's text: quoted.
            said = f"The catalogue says of this model: {quoted(self.model_description, _LONGEST_DESCRIPTION)}"
            return sentences(said, error.next_step)
        return self.payer.mends(error)

    def bill(self, turn: Turn) -> TurnCost:
        """Return the cost so far; the price list is applied to completed turns only."""
        cost, source = self._cost(turn)
        latency = self.latency
        outcome = self.fault.fault or "internal" if self.fault else str(self.status)
        model_used = self.finished.model if self.finished else None
        return TurnCost(
            usage=self.usage if cost == self.usage.cost_usd else replace(self.usage, cost_usd=cost),
            cost_source=source,
            latency=latency,
            time_to_first_token=None
            if self.first_token is None
            else timedelta(seconds=max(0.0, self.first_token - self.started)),
            model_used=model_used,
            provider=self.finished.provider if self.finished else None,
            route=(
                RouteStep(
                    agent=turn.agent,
                    backend=turn.backend,
                    model=model_used or turn.model,
                    outcome=str(outcome),
                    latency=latency,
                    key=self.payer.source,
                ),
            ),
            billing_may_go_on=self.may_go_on_billing and self.status in {TurnStatus.CANCELLED, TurnStatus.INTERRUPTED},
        )

    def _cost(self, turn: Turn) -> tuple[Decimal | None, str | None]:
        if self.status is not TurnStatus.RUNNING and not self.asked:
            return Decimal(0), NOT_ASKED
        if self.is_refusal:
            return Decimal(0), REFUSED
        # The usage of an interrupted turn is partial, so a computed cost would be too low; only a reported one counts.
        is_computed = self.status is TurnStatus.COMPLETED and self.usage.cost_usd is None
        # At the time of the turn by the store's clock, which is the same whoever looks, and whatever the clock does.
        return cost_of(self.usage, self.prices_at(turn.created_at) if is_computed else Prices())

    def snapshot(self, turn: Turn) -> Turn:
        """Return the turn in its current state; an ended one is marked as not yet saved."""
        ended = self.status is not TurnStatus.RUNNING
        return replace(
            turn,
            status=self.status,
            reply=self.text,
            end_reason=self.end_reason,
            stop_reason=self.finished.stop_reason if self.finished else None,
            error=self.fault,
            bill=self.bill(turn),
            history_dropped=self.history_dropped,
            ended_at=self.ended_at,
            warning=self.finished.warning if self.finished else None,
            saved=not ended,
        )

    def unfinished(self, turn: Turn) -> Turn:
        """Return the turn as running, with the text so far, whatever its outcome."""
        return replace(turn, reply=self.text)

    def ending(
        self,
        owner: UUID,
        *,
        message_id: MessageId | None,
        caller_gone: bool,
        events: tuple[AuditEvent, ...],
    ) -> Ending:
        """Return the data to write together with the ended turn."""
        return Ending(
            lease_owner=owner,
            message_id=message_id,
            caller_gone=caller_gone,
            asked=self.asked,
            state=self.finished.state if self.finished else {},
            events=events,
        )


def _named(name: str | None) -> str | None:
    return None if name is None else one_line(name) or None
