"""The outermost middleware: the request's id, trace and log line, and the response to an unexpected error."""

import logging
import os
import re
import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.log_context import internal_message, log_unexpected, request_id
from agentapi_mcp.web.limits import ClientStuckError
from agentapi_mcp.web.mounts import Mount, Refusal
from agentapi_mcp.web.requests import ADDED, RECEIVED, client_of, head_of
from agentapi_mcp.web.tracing import traced

_GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_ID_BYTES = 6
_log = logging.getLogger(__name__)


class RequestIds:
    """Middleware that gives every request an id and a trace, in the response and in every log line."""

    def __init__(self, app: ASGIApp, mount: Mount) -> None:
        self._app = app
        self._mount = mount
        self._level = logging.DEBUG if mount.quiet else logging.INFO

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an id set by a proxy is reused."""
        head = head_of(scope)
        given = head.first.get(b"x-request-id")
        ours = given.decode() if given is not None and _GIVEN_ID.fullmatch(given) else os.urandom(_ID_BYTES).hex()
        added = [(b"x-request-id", ours.encode())]
        begun, status = time.monotonic(), 0
        scope[RECEIVED], scope[ADDED] = begun, added

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        token = request_id.set(ours)
        with traced(
            {name.decode(): head.text(name) for name in (b"traceparent", b"tracestate") if name in head.first},
            anew=True,
        ):
            try:
                await self._serve(scope, receive, stamped, lambda: status != 0)
            finally:
                if _log.isEnabledFor(self._level):
                    took = round((time.monotonic() - begun) * 1000)
                    extra = {"method": scope["method"], "path": scope["path"], "status": status, "milliseconds": took}
                    extra["client"] = client_of(scope)
                    _log.log(self._level, "http_request", extra=extra)
                request_id.reset(token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, begun: Callable[[], bool]) -> None:
        try:
            try:
                await self._app(scope, receive, send)
            # Task groups in the application wrap the exception.
            except* ClientStuckError:
                _log.info("client_does_not_read")
        except Exception as exc:  # noqa: BLE001  # the outermost point of a request
            refusal = _refusal(exc, scope["path"])
            # Once the response has begun, its status cannot be changed.
            if not begun():
                await self._mount.render(refusal)(scope, receive, send)


def _refusal(error: Exception, path: str) -> Refusal:
    reason = innermost(error)
    if isinstance(reason, StoreError):  # wherever a request reads or writes; its words say what to do
        _log.warning("http_without_store", extra={"path": path, "code": reason.code})
        return Refusal(status=HTTPStatus.SERVICE_UNAVAILABLE, message=str(reason), error=reason)
    message = internal_message(log_unexpected("http_failed", error, what=path))
    return Refusal(status=HTTPStatus.INTERNAL_SERVER_ERROR, message=message)
