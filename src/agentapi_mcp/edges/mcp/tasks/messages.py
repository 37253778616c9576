"""The messages of the extension, by its draft of 2026-08-21, and what a request declares of it."""

from typing import Literal

from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ClientCapabilities,
    Notification,
    NotificationParams,
    RequestParams,
    Result,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ConfigDict

from agentapi_mcp.edges.mcp.callers import Context

EXTENSION = "io.modelcontextprotocol/tasks"
Json = dict[str, object]


class TaskParams(RequestParams):
    """The parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str


class UpdateTaskParams(TaskParams):
    """The parameters of `tasks/update`: answers by the key of the question."""

    input_responses: Json


class _State(Result):
    task_id: str
    status: Literal["working", "input_required", "completed", "cancelled", "failed"]
    status_message: str | None = None
    created_at: str
    last_updated_at: str
    ttl_ms: int
    poll_interval_ms: int


class CreateTaskResult(_State):
    """The answer to a call that is answered later."""

    result_type: Literal["task"] = "task"


class DetailedTask(_State):
    """A task with what its call was answered, or with what its agent asks."""

    result_type: Literal["complete"] = "complete"
    result: Json | None = None
    error: Json | None = None
    input_requests: Json | None = None


class TaskNotificationParams(NotificationParams):
    """The fields of a `DetailedTask`."""

    model_config = ConfigDict(extra="allow")


class TaskNotification(Notification[TaskNotificationParams, Literal["notifications/tasks"]]):
    """What `tasks/get` would return now."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: TaskNotificationParams


def declares_tasks(context: Context) -> bool:
    """Return whether this request declares the extension, which other eras do not have."""
    declared = context.session.client_capabilities
    extensions = None if declared is None else declared.extensions
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS and EXTENSION in (extensions or {})


def require_tasks(context: Context) -> None:
    """Refuse a request that does not declare the extension, or is of another era."""
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(METHOD_NOT_FOUND, "Method not found", context.method)
    if not declares_tasks(context):
        needed = ClientCapabilities(extensions={EXTENSION: {}})
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            f"Declare the extension {EXTENSION} in the clientCapabilities of this request.",
            {"requiredCapabilities": needed.model_dump(by_alias=True, exclude_none=True)},
        )


def check_name_header(context: Context, task_id: str) -> None:
    """Refuse a request whose `Mcp-Name` is that of another task; clients that send none are let through."""
    name: str | None = getattr(context.request, "headers", {}).get(MCP_NAME_HEADER)
    if name is not None and decode_header_value(name) != task_id:
        raise MCPError(HEADER_MISMATCH, "The header Mcp-Name is not the taskId of the request.")


def can_be_asked(context: Context) -> bool:
    """Return whether the client of this request shows forms; one without further words does."""
    declared = context.session.client_capabilities
    elicitation = None if declared is None else declared.elicitation
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)
