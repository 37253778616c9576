"""Logging: one line for each event, to stderr, with the ids of its request and turn."""

import logging
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

from typing_extensions import override

from agentapi_mcp.base.visible import escape, replace_invisible

_OTHER_SPACE = re.compile(r"[^\S ]")


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes one line for each record, with escapes in place of what a reader of the log would not see.

    The last step before the stream, so that it holds for every renderer, field, exception and library.
    """

    @override
    def format(self, record: logging.LogRecord) -> str:
        if self.formatter is None:
            # With the first record: most commands log nothing, and need not load the library for it.
            self.setFormatter(import_module("agentapi_mcp.log_lines").line_formatter())
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
    handler = _LineHandler(stream or sys.stderr)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = logging.getLevelNamesMapping()[(level or "warning").upper()]
    root.setLevel(max(chosen, logging.WARNING))  # below that, libraries log the content of messages
    logging.getLogger("agentapi_mcp").setLevel(chosen)


@contextmanager
def logs_to(stream: TextIO) -> Generator[None]:
    """Send all logs of this process to another stream meanwhile."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, _LineHandler)]
    before = [(handler, handler.setStream(stream)) for handler in handlers]
    try:
        yield
    finally:
        for handler, own in before:
            handler.setStream(own or sys.stderr)
