"""W3C trace context (https://www.w3.org/TR/trace-context/): continued from the caller, or started here."""

import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentapi_mcp.base.log_context import trace_id

_PROPAGATOR = TraceContextTextMapPropagator()


@contextmanager
def traced(headers: Mapping[str, str] | None = None) -> Generator[None]:
    """Continue the trace of the headers or the current one, or start an unsampled one."""
    found = otel.get_current() if headers is None else _PROPAGATOR.extract(headers)
    span = trace.get_current_span(found).get_span_context()
    if not span.is_valid:
        # Ids of zeros only are invalid (W3C Trace Context, section 3.2.2).
        span = trace.SpanContext(secrets.randbits(128) or 1, secrets.randbits(64) or 1, is_remote=False)
        found = trace.set_span_in_context(trace.NonRecordingSpan(span))
    attached = otel.attach(found)
    token = trace_id.set(trace.format_trace_id(span.trace_id))
    try:
        yield
    finally:
        trace_id.reset(token)
        otel.detach(attached)
