"""What a log line belongs to: set once at the edge or by the turn, read by whoever writes logs."""

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
turn_id: ContextVar[str | None] = ContextVar("turn_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
