"""Logging: one line for each event, to stderr, with the ids of its request and turn."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from typing_extensions import override

from agentapi_mcp.base.log_context import request_id, trace_id, turn_id


class _PrintableRenderer(structlog.processors.LogfmtRenderer):
    """Renders an event as logfmt, with escapes in place of what a terminal would obey instead of show."""

    @override
    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        line = super().__call__(_logger, _method, event)
        return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def configure_logs(level: str | None, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream`, stderr by default; stdout is never touched.

    The level applies to our own loggers; libraries log from warning upwards.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _PrintableRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = logging.getLevelNamesMapping()[(level or "warning").upper()]
    root.setLevel(max(chosen, logging.WARNING))  # below that, libraries log the content of messages
    logging.getLogger("agentapi_mcp").setLevel(chosen)


def _add_ids(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, variable in (("request_id", request_id), ("turn_id", turn_id), ("trace_id", trace_id)):
        value = variable.get()
        if value is not None:
            event.setdefault(name, value)
    return event
