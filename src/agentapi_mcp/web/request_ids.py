"""The outermost middleware: the request's id, trace and log line, and the response to an unexpected error."""

import logging
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.log_context import internal_message, log_unexpected, request_id
from agentapi_mcp.web.limits import ClientStuckError
from agentapi_mcp.web.mounts import Mount, Refusal
from agentapi_mcp.web.requests import RECEIVED, client_of
from agentapi_mcp.web.tracing import traced

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger(__name__)


class RequestIds:
    """Middleware that gives every request an id and a trace, in the response and in every log line."""

    def __init__(self, app: ASGIApp, mount: Mount) -> None:
        self._app = app
        self._mount = mount

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; an id set by a proxy is reused."""
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        ours = given if _GIVEN_ID.fullmatch(given) else uuid4().hex[:12]
        begun, status = time.monotonic(), 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = ours
            await send(message)

        token = request_id.set(ours)
        with traced(headers):
            try:
                await self._serve({**scope, RECEIVED: begun}, receive, stamped, lambda: status != 0)
            finally:
                took = round((time.monotonic() - begun) * 1000)
                extra = {"method": scope["method"], "path": scope["path"], "status": status, "milliseconds": took}
                extra["client"] = client_of(scope)
                _log.log(logging.DEBUG if self._mount.quiet else logging.INFO, "http_request", extra=extra)
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
