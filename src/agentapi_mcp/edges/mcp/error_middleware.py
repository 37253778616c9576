"""The outermost middleware of the edge: request ids for the log, open calls, and safe answers to unexpected errors."""

import os
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR
from pydantic import ValidationError

from agentapi_mcp.base import log_context
from agentapi_mcp.base.errors import AgentApiError, PermissionDeniedError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.json_values import is_object, load_json
from agentapi_mcp.base.log_context import internal_message, log_unexpected
from agentapi_mcp.base.log_context import request_id as current_request
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.edges.mcp.callers import Callers, Context, client_of, preferring_client, request_key
from agentapi_mcp.edges.mcp.cancellations import Cancellations, connection
from agentapi_mcp.edges.mcp.errors import rpc_error
from agentapi_mcp.web.requests import address_of
from agentapi_mcp.web.tracing import traced

_ID_BYTES = 6
HELD_BY_CALL = "agentapi.held_by_call"  # scope key of what counts a call as an open request, where its own ends before


class ErrorMiddleware:
    """Middleware around every request and notification; `continues_traces` unless something before it does."""

    def __init__(self, cancellations: Cancellations, callers: Callers, *, continues_traces: bool) -> None:
        self._cancellations = cancellations
        self._callers = callers
        self._continues_traces = continues_traces

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Handle one message."""
        if ctx.method == "tools/call":
            ctx = _with_object(ctx)
        if ctx.method == "notifications/cancelled" and ctx.params is not None:
            self._cancellations.set_reason(request_key(ctx, ctx.params.get("requestId")), ctx.params.get("reason"))
        # Over HTTP, the id is set already, and is in the response's X-Request-Id.
        token = current_request.set(current_request.get() or os.urandom(_ID_BYTES).hex())
        scope: Mapping[str, object] = getattr(ctx.request, "scope", {})
        log_context.address.set(address_of(scope))
        log_context.client.set(client_of(ctx))
        log_context.client_program.set(preferring_client(ctx) or None)
        try:
            with traced(ctx.meta if self._continues_traces else None):
                around = _around(ctx, scope)
                if around is None:
                    return await _alone(call_next(ctx))
                with around:
                    return await _alone(call_next(ctx))
        except (MCPError, ValidationError):  # the SDK answers these itself, without internal detail
            raise
        except AgentApiError as exc:
            if isinstance(exc, PermissionDeniedError):
                await self._callers.denied(ctx, exc, AuditTarget("method", ctx.method))
            raise rpc_error(exc) from exc
        except Exception as exc:  # noqa: BLE001  # the outermost point of the edge
            request_id = log_unexpected("request_failed", exc, what=ctx.method)
            # The SDK would send `str(exception)` to 2025-era clients.
            raise MCPError(INTERNAL_ERROR, internal_message(request_id)) from None
        finally:
            current_request.reset(token)


def _with_object(ctx: Context) -> Context:
    """Read arguments that are an object in the text of JSON, as models write them, or the empty list of PHP."""
    given: object = {} if ctx.params is None else ctx.params.get("arguments")
    read: object = {} if given == [] else given
    if isinstance(given, str):
        try:
            read = load_json(given)
        except (ValueError, RecursionError):
            read = given if given.strip() else {}
    # Otherwise left to the SDK, which refuses the call.
    return (
        ctx if read is given or not is_object(read) else replace(ctx, params={**(ctx.params or {}), "arguments": read})
    )


async def _alone(work: Awaitable[HandlerResult]) -> HandlerResult:
    """Raise what is for the caller without the group of a task that runs beside the work, as a stream has some."""
    try:
        return await work
    except ExceptionGroup as exc:
        reason = innermost(exc)
        if isinstance(reason, MCPError | AgentApiError):
            raise reason from exc
        raise


def _around(ctx: Context, scope: Mapping[str, object]) -> AbstractContextManager[None] | None:
    """Return what lasts as long as a request, where its transport does not see to that, as HTTP does.

    Over stdio, what waits for the response is noted. A call over SSE counts as an open request.
    """
    if ctx.request_id is None:
        return None
    client = connection.get()
    if client is not None and client.pipe is not None:
        return client.pipe.of(ctx.request_id)
    hold: Any = scope.get(HELD_BY_CALL)
    return None if hold is None else hold()
