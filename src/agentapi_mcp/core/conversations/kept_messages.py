"""What later prompts hold of a turn, by how it ended; the transcript shows everything."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import MessageId, TurnId
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.backends.reasoning import without_reasoning
from agentapi_mcp.core.conversations.models import History, TurnStatus, repeats

# Providers ask to leave such a turn out, also where something was said before: with it, they refuse the next ones too.
REFUSED_STOPS = frozenset({StopReason.CONTENT_FILTER})
REFUSED_FAULTS = frozenset({BackendFault.CONTENT_POLICY, BackendFault.CONTEXT_LENGTH})


class Kept(StrEnum):
    """Whether a message and its answer are in later prompts.

    - `ALWAYS`: they are; a message without an answer stands alone.
    - `UNTIL_REPEATED`: they are, unless the next message is the same, which takes their place.
    - `NEVER`: neither is.
    """

    ALWAYS = "always"
    UNTIL_REPEATED = "until_repeated"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """How a turn ended."""

    status: TurnStatus
    fault: BackendFault | None = None
    stop_reason: StopReason | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message of a session as it is stored, with its turn; both are None where another program wrote it."""

    said: HistoryMessage
    turn_id: TurnId | None = None
    outcome: TurnOutcome | None = None


def kept(outcome: TurnOutcome, *, has_text: bool) -> Kept:
    """Decide about a turn; `has_text` says whether its answer has any, apart from reasoning."""
    refused = outcome.fault in REFUSED_FAULTS or outcome.stop_reason in REFUSED_STOPS
    if refused or not outcome.status.is_final:
        return Kept.NEVER
    if outcome.status is TurnStatus.COMPLETED:
        return Kept.ALWAYS if has_text else Kept.UNTIL_REPEATED
    return Kept.UNTIL_REPEATED if has_text else Kept.NEVER


def kept_of(stored: Iterable[StoredMessage]) -> tuple[tuple[HistoryMessage, ...], int]:
    """Return what later prompts hold of the messages of a session, oldest first, and `unfinished` of their history."""
    said = [(message, spoken(message.said)) for message in stored]
    answered = {message.turn_id for message, it in said if it.role is not MessageRole.USER and it.text.strip()}
    messages, unfinished = list[HistoryMessage](), 0
    for message, it in said:
        stays = Kept.ALWAYS
        if message.outcome is not None:
            stays = kept(message.outcome, has_text=message.turn_id in answered)
        if stays is Kept.NEVER or not it.text.strip():
            continue
        if it.role is MessageRole.USER:
            if repeats(messages, unfinished, it.text):
                del messages[-unfinished:]
            unfinished = 0
        elif not unfinished:
            stays = Kept.ALWAYS  # its message is not there
        messages.append(it)
        unfinished = unfinished + 1 if stays is Kept.UNTIL_REPEATED else 0
    return tuple(messages), unfinished


def history_after(
    history: History, message: str, reply: str, outcome: TurnOutcome, last_message_id: MessageId
) -> History:
    """Return what stands before the next message, from what stood before this one and how its turn ended."""
    answer = spoken(HistoryMessage(MessageRole.ASSISTANT, reply))
    has_text = bool(answer.text.strip())
    stays = kept(outcome, has_text=has_text)
    if stays is Kept.NEVER:
        return replace(history, last_message_id=last_message_id)
    said = HistoryMessage(MessageRole.USER, message)
    unfinished = stays is Kept.UNTIL_REPEATED
    return history.before(message).followed_by(
        (said, answer) if has_text else (said,), last_message_id, unfinished=unfinished
    )


def spoken(said: HistoryMessage) -> HistoryMessage:
    """Return a message without the reasoning of the model that wrote it."""
    if said.role is not MessageRole.ASSISTANT:
        return said
    text = without_reasoning(said.text)
    return said if text is said.text else HistoryMessage(said.role, text)
