"""One turn of this process, with its state."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.base.ids import MessageId, TurnId, new_id
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.conversations.answer_builder import AnswerBuilder
from agentapi_mcp.core.conversations.models import EndReason, Turn
from agentapi_mcp.core.conversations.turn_states import RULES, TurnState
from agentapi_mcp.core.conversations.turn_work import TurnJob


@dataclass(slots=True, eq=False)
class RunningTurn:
    """One turn of this process.

    `begun` is set by the first text or the end, `answered` when the outcome is known, and `saved` when it is stored or
    somebody else has ended the turn. After that, `stored` is the turn as the store has it, or `not_stored` says why it
    is not known. `events` are those of the audit log that are stored with the end. `follow_count` counts all callers
    who followed the turn so far; `followed_here_at` is when one of this process last joined it, by the store's clock,
    and `left_elsewhere_at` the monotonic time of the last news that one of another process has left. `share` is what it
    takes of its user's.
    """

    job: TurnJob
    answer: AnswerBuilder
    state: TurnState = TurnState.ACCEPTED
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    saved: asyncio.Event = field(default_factory=asyncio.Event)
    stored: Turn | None = None
    not_stored: AgentApiError | None = None
    waits_for_place: bool = False
    events: list[AuditEvent] = field(default_factory=list[AuditEvent])
    followers: int = 0
    follow_count: int = 0
    followed_here_at: datetime | None = None
    left_elsewhere_at: float | None = None
    answered_running: bool = False
    caller_gone: bool = False
    lost: bool = False
    end_reason: EndReason | None = None
    answered_at: float = 0.0
    saved_characters: int = 0
    reply_id: MessageId = field(default_factory=lambda: MessageId(new_id()))
    asking: asyncio.Timeout | None = None
    share: ExitStack = field(default_factory=ExitStack)

    @property
    def id(self) -> TurnId:
        """The turn's id."""
        return self.job.accepted.turn.id

    def advance(self, state: TurnState) -> None:
        """Go on to a state that may follow."""
        if state not in RULES[self.state].then:
            raise AssertionError(f"A turn that is {self.state} cannot be {state} next.")
        self.state = state

    def snapshot(self) -> Turn:
        """Return the turn as it is known here; an outcome that is not stored is marked as not saved."""
        return self.stored or self.answer.snapshot(self.job.accepted.turn)

    def unfinished(self) -> Turn:
        """Return the turn as the store has it until the outcome is stored: running, with the text so far."""
        return self.answer.unfinished(self.job.accepted.turn)
