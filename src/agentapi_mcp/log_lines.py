"""One line for each log record, in logfmt, with the ids of its request and turn."""

import logging
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

from agentapi_mcp.base.log_context import request_id, trace_id, turn_id

_NOT_OF_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")


def line_formatter() -> logging.Formatter:
    """Make the formatter of all logs of this process."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_ids,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _name_fields,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False),
        ],
    )


def _add_ids(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, variable in (("request_id", request_id), ("turn_id", turn_id), ("trace_id", trace_id)):
        value = variable.get()
        if value is not None:
            event.setdefault(name, value)
    return event


def _name_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the names of fields to ASCII letters and digits: logfmt refuses a space in one, and `=` would part it."""
    return {_NOT_OF_A_NAME.sub("_", str(name)): value for name, value in event.items()}
