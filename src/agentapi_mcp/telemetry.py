"""Logging: one line for each event, to stderr, with the ids of its request and turn."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from typing_extensions import override

from agentapi_mcp.base.log_context import request_id, trace_id, turn_id
from agentapi_mcp.base.visible import escape, replace_invisible

_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_OTHER_SPACE = re.compile(r"[^\S ]")


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes one line for each record, with escapes in place of what a reader of the log would not see.

    The last step before the stream, so that it holds for every renderer, field, exception and library.
    """

    @override
    def format(self, record: logging.LogRecord) -> str:
        return _escaped(super().format(record))

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        # The base class prints the record and the traceback as they are, past `format`.
        kind = type(sys.exception()).__name__
        self.stream.write(_escaped(f"level=error event=log_failed logger={record.name} error={kind}") + "\n")
        self.flush()


def _escaped(line: str) -> str:
    """Escape what is not seen, and every space but the plain one, which alone parts two fields."""
    return _OTHER_SPACE.sub(lambda space: escape(space[0]), replace_invisible(line, escape))


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
            _name_fields,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
    )
    handler = _LineHandler(stream or sys.stderr)
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


def _name_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the names of fields to ASCII letters and digits: logfmt refuses a space in one, and `=` would part it."""
    return {_NOT_OF_A_NAME.sub("_", str(name)): value for name, value in event.items()}
