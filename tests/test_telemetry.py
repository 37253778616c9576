"""What is logged can be read in a terminal, whatever clients put into it."""

import io
import logging
from collections.abc import Iterator

import pytest

from agentapi_mcp.telemetry import configure_logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("agentapi_mcp")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_no_control_character_of_a_client_reaches_the_terminal() -> None:
    stream = io.StringIO()
    configure_logs("info", stream)
    path = "/a\x1b[2J\x00\x9b\u202e\udc80\nlevel=error é"
    logging.getLogger("agentapi_mcp.web").info("request", extra={"path": path, "status": 404})
    line = stream.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert r'path="/a\x1b[2J\x00\x9b\u202e\udc80\nlevel=error é"' in line
    assert "status=404" in line


def test_a_traceback_stays_on_the_line_of_its_event() -> None:
    stream = io.StringIO()
    configure_logs("info", stream)
    try:
        int("no \x07")
    except ValueError:
        logging.getLogger("agentapi_mcp.web").exception("failed")
    [line] = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "ValueError: invalid literal" in line
