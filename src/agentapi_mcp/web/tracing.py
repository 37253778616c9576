"""W3C trace context (https://www.w3.org/TR/trace-context/): continued from the caller, or started here."""

import os
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentapi_mcp.base.log_context import trace_id

_PROPAGATOR = TraceContextTextMapPropagator()
_FIELDS = ("traceparent", "tracestate")
_SPAN_BITS, _TRACE_AND_SPAN_BYTES = 64, 24


class traced:  # noqa: N801  # used as a function; a generator would cost every request twice as much
    """While it lasts, continue the trace that a caller sent or the current one, or an unsampled one that starts here.

    `anew` leaves the current one out: requests of one connection are not one trace.
    """

    __slots__ = ("_anew", "_attached", "_sent", "_token")

    def __init__(self, sent: Mapping[str, object] | None, *, anew: bool = False) -> None:
        self._sent = sent
        self._anew = anew
        self._attached: Token[otel.Context] | None = None
        self._token: Token[str | None] | None = None

    def __enter__(self) -> None:
        current = None if self._anew else otel.get_current()
        context = otel.Context() if current is None else current
        if self._sent and "traceparent" in self._sent:
            context = _PROPAGATOR.extract(_texts(self._sent), context)
        span = trace.get_current_span(context).get_span_context() if context else trace.INVALID_SPAN_CONTEXT
        if not span.is_valid:
            random = int.from_bytes(os.urandom(_TRACE_AND_SPAN_BYTES), "big")
            # Ids of zeros only are invalid (W3C Trace Context, section 3.2.2).
            ids = random >> _SPAN_BITS or 1, random % 2**_SPAN_BITS or 1
            span = trace.SpanContext(*ids, is_remote=False)
            context = trace.set_span_in_context(trace.NonRecordingSpan(span), context)
        name = f"{span.trace_id:032x}"
        if context is current and trace_id.get() == name:
            return
        self._attached, self._token = otel.attach(context), trace_id.set(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None and self._attached is not None:
            trace_id.reset(self._token)
            otel.detach(self._attached)


def records_spans() -> bool:
    """Return whether the operator's program records spans (docs/dependencies.md)."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _texts(sent: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name in _FIELDS if isinstance(value := sent.get(name), str)}
