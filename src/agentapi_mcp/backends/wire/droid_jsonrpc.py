"""Map the Droid CLI's dialect of JSON-RPC to events and faults."""

import re
from collections.abc import Mapping

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.usage import UsageMeter
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_object, as_text
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    SignOfLife,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
)

COMPLETED = "agent_turn_completed"
_STATUS = re.compile(r"([45]\d\d)\b[\s:]*")
_BY_REASON = {
    "cancelled": BackendFault.CANCELLED,
    "model_authentication_failed": BackendFault.AUTH,
    "model_provider_unavailable": BackendFault.UPSTREAM,
}


def envelope(kind: str) -> Mapping[str, object]:
    """Return the fields common to all messages to the CLI."""
    return {"jsonrpc": "2.0", "factoryApiVersion": "1.0.0", "factoryProtocolVersion": "1.1.0", "type": kind}


class DroidAnswer:
    """Parses the notifications of one turn into events."""

    def __init__(self, faults: FaultReader) -> None:
        self._faults = faults
        self._error: str | None = None
        self._reason: str | None = None
        self._tools: dict[str, str] = {}

    @property
    def is_over(self) -> bool:
        """Whether the turn's completion was received."""
        return self._reason is not None

    def feed(self, notification: Mapping[str, object]) -> BackendEvent | None:
        """Convert a notification to an event, if it has one."""
        match as_text(notification.get("type")):
            case "assistant_text_delta":
                return TextDelta(as_text(notification.get("textDelta")) or "")
            case "thinking_text_delta":
                return ThoughtDelta(as_text(notification.get("textDelta")) or "")
            case "tool_call":
                return self._tool_begins(as_object(notification.get("toolUse")))
            case "tool_result":
                name = self._tools.get(as_text(notification.get("toolUseId")) or "", "a tool")
                return ToolActivity(
                    name, ToolState.FAILED if notification.get("isError") is True else ToolState.COMPLETED
                )
            case "agent_turn_completed":
                self._reason = as_text(notification.get("reason")) or "unknown"
                return next(UsageMeter().add(notification.get("tokenUsage")), None)
            case kind:
                self._error = as_text(notification.get("message")) if kind == "error" else self._error
                return SignOfLife()

    def raise_failure(self) -> None:
        """Raise the error of a turn that ended without completing.

        Raises:
            BackendError: the CLI gave the turn up.
        """
        if self._reason == "completed":
            return
        fault = _BY_REASON.get(self._reason or "", BackendFault.UPSTREAM)
        message = self._error or ""
        status = _STATUS.match(message)
        if status is not None:
            raise self._faults.of_error({"error": {"code": int(status[1]), "message": message[status.end() :]}})
        line = self._faults.redactor.line(message)
        raise BackendError(fault, f"The Droid CLI gave the turn up: {line}" if line else "The Droid CLI gave it up.")

    def _tool_begins(self, use: Mapping[str, object]) -> ToolActivity | None:
        name, which = as_text(use.get("name")) or "a tool", as_text(use.get("id")) or ""
        if which in self._tools:  # the CLI repeats the notification when the input is complete
            return None
        self._tools[which] = name
        return ToolActivity(name, ToolState.STARTED)
