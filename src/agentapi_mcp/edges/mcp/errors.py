"""Maps errors of the core to MCP: to a tool result that the model can act on, or to a JSON-RPC error."""

from http import HTTPStatus

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, CallToolResult, TextContent
from starlette.responses import JSONResponse, Response

from agentapi_mcp.base.errors import AgentApiError, NextStep
from agentapi_mcp.presentation.errors import ERROR_META_KEY, ErrorWords, error_fields, explain_error
from agentapi_mcp.presentation.text import clean
from agentapi_mcp.web.mounts import Refusal

RPC_CODES: dict[str, int] = {
    "internal": INTERNAL_ERROR,
    "caller": INVALID_PARAMS,
    "invalid_request": INVALID_PARAMS,
    "not_authenticated": INVALID_REQUEST,
    "permission_denied": INVALID_REQUEST,
    "not_found": INVALID_PARAMS,
    "conflict": INVALID_REQUEST,
    "limit_exceeded": INTERNAL_ERROR,
    "budget_exceeded": INVALID_REQUEST,
    "configuration": INTERNAL_ERROR,
    "backend": INTERNAL_ERROR,
    "issuer_unavailable": INTERNAL_ERROR,
    "store": INTERNAL_ERROR,
    "store_unavailable": INTERNAL_ERROR,
    "store_unclear": INTERNAL_ERROR,
    "store_busy": INTERNAL_ERROR,
    "store_slow": INTERNAL_ERROR,
    "store_mismatch": INTERNAL_ERROR,
}
# MCP 2025-03-26 asks servers to take batches, and 2025-06-18 took them out of the protocol.
NO_BATCHES = "This server takes no batches: send each message by itself, as MCP asks since its revision 2025-06-18."
WORDS = ErrorWords(
    next_steps={
        NextStep.FIND_SESSION: "Call list_sessions, or leave session_id out to start one.",
        NextStep.FIND_TURN: "Call list_sessions and read the session's transcript.",
        NextStep.WAIT_OR_CANCEL: "Wait for it with get_turn, or end it with cancel_turn, then try again.",
        NextStep.LEAVE_RETRY_OUT: "To get that turn, leave retry out; to ask anew, pass new: true, or a new key if "
        "you pass one.",
    },
    steps_of_codes={
        "internal": "Try again; the server's log says more.",
        "not_authenticated": "Sign in, then try again.",
        "configuration": "The operator of this server has to mend it.",
        "issuer_unavailable": "Try again in half a minute; the server's log says more.",
        "store": "Try again; if it stays, the operator finds the reason in the server's log.",
        "store_mismatch": "The operator of this server has to mend it.",
    },
)


def explain(error: AgentApiError) -> str:
    """Describe an error and the next step, in terms of tools."""
    return explain_error(error, WORDS)


def tool_error(error: AgentApiError) -> CallToolResult:
    """Return an error as the result of a tool call, for the model to act on."""
    return _failed(explain(error), error)


def internal_result(text: str) -> CallToolResult:
    """Return the result of a tool call that failed for a reason that only the log has."""
    return _failed(text, AgentApiError())


def _failed(text: str, error: AgentApiError) -> CallToolResult:
    # For programs, which need not read the words: a result of a tool has no other place for the error's code.
    meta = {ERROR_META_KEY: error_fields(error)}
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True, _meta=meta)


def rpc_error(error: AgentApiError) -> MCPError:
    """Return an error as a JSON-RPC error, with the stable code in its data."""
    return MCPError(RPC_CODES[error.code], explain(error), error_fields(error))


def resource_not_found(uri: str) -> MCPError:
    """Return the error for an unknown resource."""
    # The same for a resource of another user: its existence is not disclosed.
    return MCPError(INVALID_PARAMS, "There is no such resource.", {"uri": clean(uri)})


def rpc_refusal(refusal: Refusal) -> Response:
    """Render a rejection by the HTTP host as a JSON-RPC error with a null id."""
    ours = refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR or refusal.status == HTTPStatus.TOO_MANY_REQUESTS
    message = refusal.message if refusal.error is None else explain(refusal.error)
    error = {"code": INTERNAL_ERROR if ours else INVALID_REQUEST, "message": message}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    return JSONResponse(body, refusal.status, headers=dict(refusal.headers))
