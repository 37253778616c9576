"""The one table from core's errors to what MCP says: a tool's result that the model can act on, or a JSON-RPC error."""

from dataclasses import dataclass

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, CallToolResult, TextContent

from agentapi_mcp.core.errors import (
    AgentApiError,
    BackendError,
    CallerError,
    NextStep,
    retry_after_seconds,
    sentences,
)
from agentapi_mcp.mcp.texts import clean


@dataclass(frozen=True, slots=True)
class Translation:
    """The JSON-RPC code outside of tools, and the next step where the error's own message does not name one."""

    rpc_code: int
    next_step: str = ""


TRANSLATIONS: dict[str, Translation] = {
    "internal": Translation(INTERNAL_ERROR, "Try again; the server's log says more."),
    "caller": Translation(INVALID_PARAMS),
    "invalid_request": Translation(INVALID_PARAMS),
    "not_authenticated": Translation(INVALID_REQUEST, "Sign in, then try again."),
    "permission_denied": Translation(INVALID_REQUEST),
    "not_found": Translation(INVALID_PARAMS),
    "conflict": Translation(INVALID_REQUEST),
    "limit_exceeded": Translation(INTERNAL_ERROR),
    "configuration": Translation(INTERNAL_ERROR, "The operator of this server has to mend it."),
    "backend": Translation(INTERNAL_ERROR),
    "issuer_unavailable": Translation(INTERNAL_ERROR, "Try again in half a minute; the server's log says more."),
    "store": Translation(INTERNAL_ERROR, "Try again; if it stays, the operator finds the reason in the server's log."),
    "store_unavailable": Translation(INTERNAL_ERROR),
    "store_mismatch": Translation(INTERNAL_ERROR, "The operator of this server has to mend it."),
}


NEXT_STEPS: dict[NextStep, str] = {
    NextStep.FIND_SESSION: "Call list_sessions, or leave session_id out to start one.",
    NextStep.FIND_TURN: "Call list_sessions and read the session's transcript.",
    NextStep.WAIT_OR_CANCEL: "Wait for it with get_turn, or end it with cancel_turn, then try again.",
}


def explain(error: AgentApiError) -> str:
    """Say what is wrong and what to do next, in one paragraph."""
    parts = [str(error), _next_step(error)]
    seconds = retry_after_seconds(error)
    if seconds is not None:
        parts.append(f"Try again in {seconds} s.")
    return clean(sentences(*parts))


def _next_step(error: AgentApiError) -> str:
    if isinstance(error, BackendError):
        return error.next_step
    if isinstance(error, CallerError) and error.next_step is not None:
        return NEXT_STEPS[error.next_step]
    return TRANSLATIONS[error.code].next_step


def tool_error(error: AgentApiError) -> CallToolResult:
    """Answer a tool call with what the model can mend."""
    return failed_result(explain(error))


def failed_result(text: str) -> CallToolResult:
    """Answer a tool call with a failure in words."""
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def rpc_error(error: AgentApiError) -> MCPError:
    """Answer any other request with a JSON-RPC error; its data carry the stable code."""
    data: dict[str, object] = {"code": error.code, "retryable": error.retryable}
    seconds = retry_after_seconds(error)
    if seconds is not None:
        data["retry_after_seconds"] = seconds
    return MCPError(TRANSLATIONS[error.code].rpc_code, explain(error), data)


def resource_not_found(uri: str) -> MCPError:
    """Say that there is no such resource, or none that the caller may know of."""
    return MCPError(INVALID_PARAMS, "There is no such resource.", {"uri": clean(uri)})


def internal_message(request_id: str) -> str:
    """Say that we failed, in words that find the log's entry and tell nothing else."""
    return f"Internal error, request id {request_id}. The server's log has the details under this id."
