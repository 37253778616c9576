"""One answer as it grows, and what it comes to: reply, bill, outcome."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import FAULT_ADVICE, BackendError, BackendFault, sentences
from agentapi_mcp.base.money import Prices
from agentapi_mcp.base.text import one_line, storable
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
from agentapi_mcp.core.conversations.costs import cost_of, plausible
from agentapi_mcp.core.conversations.models import Ending, EndReason, RouteStep, Turn, TurnCost, TurnFault, TurnStatus
from agentapi_mcp.core.keys.models import KeySource

_STATUS_OF_STOP: dict[EndReason, TurnStatus] = {
    EndReason.CANCEL_TURN: TurnStatus.CANCELLED,
    EndReason.ABANDONED: TurnStatus.CANCELLED,
    EndReason.SHUTDOWN: TurnStatus.INTERRUPTED,
    EndReason.LEASE_EXPIRED: TurnStatus.INTERRUPTED,
}
_OF_THE_KEY = frozenset({BackendFault.AUTH, BackendFault.PERMISSION, BackendFault.PAYMENT, BackendFault.RATE_LIMIT})
_REFUSED = {
    KeySource.USER: "It was your own key that was refused: replace it (`agentapi-mcp keys list` shows what you have).",
    KeySource.ORGANIZATION: "It was your organisation's key that was refused: ask its administrator to replace it.",
}
_ASKED_WITH = {
    KeySource.USER: "It was asked with your own key.",
    KeySource.ORGANIZATION: "It was asked with your organisation's key.",
}
_INTERNAL = TurnFault(
    None,
    "The server failed while it ran this turn; its log has the details.",
    "Send the message again.",
    retryable=True,
)


@dataclass(slots=True)
class AnswerBuilder:
    """What the agent has said so far, with the times that the bill needs."""

    clock: Clock
    prices: Prices
    may_go_on_billing: bool
    whose: KeySource = KeySource.SERVER
    started: float = 0.0
    first_token: float | None = None
    ended: float | None = None
    parts: list[str] = field(default_factory=list[str])
    characters: int = 0
    activity: str | None = None
    usage: Usage = field(default_factory=Usage)
    finished: Finished | None = None
    status: TurnStatus = TurnStatus.RUNNING
    end_reason: EndReason | None = None
    fault: TurnFault | None = None
    history_dropped: int = 0

    def begin(self) -> None:
        """Note when the agent was asked."""
        self.started = self.clock.monotonic()

    @property
    def text(self) -> str:
        """The text so far, as it can be kept and sent."""
        if len(self.parts) > 1:
            self.parts[:] = ["".join(self.parts)]
        return storable(self.parts[0]) if self.parts else ""

    def tail(self, characters: int) -> str:
        """Return the last characters of the text so far."""
        return self.text[-characters:]

    def take(self, event: BackendEvent) -> None:
        """Add what the agent said."""
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
                self.activity = f"using {one_line(name)}" if state is ToolState.STARTED else None
            case UsageReported(usage):
                self.usage = plausible(usage)
            case Finished():
                self.finished = replace(event, model=_named(event.model), provider=_named(event.provider))
            case _:
                pass

    def end(self, reason: EndReason | None, error: BaseException | None) -> None:
        """Settle how it ended: by a stop that somebody asked for, by a fault, or by its own end."""
        self.ended = self.clock.monotonic()
        if self.finished is not None and error is None:
            self.status, self.end_reason = TurnStatus.COMPLETED, EndReason.ANSWERED
        elif reason is not None:
            self.status, self.end_reason = _STATUS_OF_STOP[reason], reason
        elif isinstance(error, BackendError):
            self.status, self.end_reason = TurnStatus.FAILED, EndReason.FAULT
            self.fault = TurnFault(
                error.fault, storable(str(error)), _next_step(error, self.whose), error.may_retry, error.retry_after
            )
        elif error is None:
            self.status, self.end_reason = TurnStatus.FAILED, EndReason.FAULT
            advice = FAULT_ADVICE[BackendFault.STREAM_CUT]
            self.fault = TurnFault(
                BackendFault.STREAM_CUT, "The agent stopped without an end.", advice.next_step, advice.retryable
            )
        else:
            self.status, self.end_reason, self.fault = TurnStatus.FAILED, EndReason.INTERNAL, _INTERNAL

    def bill(self, turn: Turn) -> TurnCost:
        """Return what it cost so far; what the provider did not say stays unknown unless the turn completed."""
        whole = self.status is TurnStatus.COMPLETED
        cost, source = cost_of(self.usage, self.prices if whole else Prices())
        now = self.clock.monotonic() if self.ended is None else self.ended
        latency = timedelta(seconds=now - self.started)
        outcome = self.fault.fault or "internal" if self.fault else str(self.status)
        model_used = self.finished.model if self.finished else None
        return TurnCost(
            usage=replace(self.usage, cost_usd=cost),
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
                    milliseconds=round(latency.total_seconds() * 1000),
                    key=self.whose,
                ),
            ),
            billing_may_go_on=self.may_go_on_billing and self.status in {TurnStatus.CANCELLED, TurnStatus.INTERRUPTED},
        )

    def snapshot(self, turn: Turn) -> Turn:
        """Return the turn as it is now, not yet saved when it has ended."""
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
            ended_at=self.clock.now() if ended else None,
            warning=self.finished.warning if self.finished else None,
            saved=not ended,
        )

    def ending(self, owner: UUID, *, delivered: bool, caller_gone: bool) -> Ending:
        """Return what is to be written beside the turn as it ended."""
        state = self.finished.state if self.finished else {}
        return Ending(lease_owner=owner, delivered=delivered, caller_gone=caller_gone, state=state)


def _next_step(error: BackendError, whose: KeySource) -> str:
    """Say what to do, and whose key it was where that matters."""
    if whose is KeySource.SERVER or error.fault not in _OF_THE_KEY:
        return error.next_step
    if error.fault is BackendFault.AUTH:
        return _REFUSED[whose]
    return sentences(error.next_step, _ASKED_WITH[whose])


def _named(name: str | None) -> str | None:
    return None if name is None else one_line(name) or None
