"""Context variables for log lines and audit events, set once by the edge or the turn."""

import logging
from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
turn_id: ContextVar[str | None] = ContextVar("turn_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
address: ContextVar[str | None] = ContextVar("address", default=None)
client: ContextVar[str | None] = ContextVar("client", default=None)
# The client without its version, which may differ when it comes back: clients update themselves.
client_program: ContextVar[str | None] = ContextVar("client_program", default=None)

_log = logging.getLogger(__name__)


def log_unexpected(event: str, error: Exception, *, what: str) -> str:
    """Log an unexpected error with its traceback, and return the current request id."""
    current = str(request_id.get())
    _log.error(event, exc_info=error, extra={"what": what, "request_id": current})
    return current


def internal_message(request_id: str) -> str:
    """Return the message for an internal error: the request id of the log entry, and nothing else."""
    return f"Internal error, request id {request_id}. The server's log has the details under this id."
