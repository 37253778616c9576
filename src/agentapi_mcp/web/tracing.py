"""W3C trace context (https://www.w3.org/TR/trace-context/): continued from the caller, or started here."""

import secrets
from contextvars import Token
from types import TracebackType

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentapi_mcp.base.log_context import trace_id
from agentapi_mcp.web.requests import Head

_PROPAGATOR = TraceContextTextMapPropagator()
_HEADERS = (b"traceparent", b"tracestate")


class traced:  # noqa: N801  # used as a function; a generator would cost every request twice as much
    """While it lasts, continue the trace of a head or the current one, or an unsampled one that starts here."""

    __slots__ = ("_attached", "_head", "_token")

    def __init__(self, head: Head | None = None) -> None:
        self._head = head
        self._attached: Token[otel.Context] | None = None
        self._token: Token[str | None] | None = None

    def __enter__(self) -> None:
        found = otel.get_current() if self._head is None else _extract(self._head)
        span = trace.get_current_span(found).get_span_context()
        if not span.is_valid:
            # Ids of zeros only are invalid (W3C Trace Context, section 3.2.2).
            span = trace.SpanContext(secrets.randbits(128) or 1, secrets.randbits(64) or 1, is_remote=False)
            found = trace.set_span_in_context(trace.NonRecordingSpan(span))
        elif self._head is None and trace_id.get() == trace.format_trace_id(span.trace_id):
            return
        self._attached = otel.attach(found)
        self._token = trace_id.set(trace.format_trace_id(span.trace_id))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None and self._attached is not None:
            trace_id.reset(self._token)
            otel.detach(self._attached)


def _extract(head: Head) -> otel.Context:
    if b"traceparent" not in head.first:
        return otel.Context()
    return _PROPAGATOR.extract({name.decode(): head.text(name) for name in _HEADERS if name in head.first})
