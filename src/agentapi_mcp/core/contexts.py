"""What a log line or an audit event belongs to: set once at the edge or by the turn, read by whoever writes it."""

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
turn_id: ContextVar[str | None] = ContextVar("turn_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
address: ContextVar[str | None] = ContextVar("address", default=None)
client: ContextVar[str | None] = ContextVar("client", default=None)
