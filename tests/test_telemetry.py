"""What is logged can be read in a terminal, whatever clients put into it."""

import ast
import io
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

import agentapi_mcp
from agentapi_mcp.telemetry import configure_logs
from tests.support.visibility import HIDDEN, hidden_texts, hides_something

SOURCE = Path(agentapi_mcp.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# A name, and a value: in quotes, or up to the next space.
FIELD = re.compile(r'([^ =]+)=("(?:[^"\\]|\\.)*"|[^ ]*)(?: |$)')

values = st.recursive(
    hidden_texts | st.binary(max_size=5) | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hidden_texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("agentapi_mcp")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def events() -> dict[str, set[str]]:
    """Find what the source logs: the names of events, and their fields."""
    found: dict[str, set[str]] = {}
    texts = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")]
    for code in texts:
        if "_log." not in code:  # to parse all takes every worker a second
            continue
        for node in ast.walk(ast.parse(code)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "_log"):
                continue
            names = {text.value for arg in node.args for text in ast.walk(arg) if isinstance(text, ast.Constant)}
            extras = [keyword.value for keyword in node.keywords if keyword.arg == "extra"]
            keys = {
                str(key.value)
                for extra in extras
                if isinstance(extra, ast.Dict)
                for key in extra.keys
                if isinstance(key, ast.Constant)
            }
            for name in names:
                found.setdefault(str(name), set[str]()).update(keys)
    return found


EVENTS = events()


def logged(
    name: str,
    event: object,
    level: int = logging.INFO,
    extra: Mapping[str, object] | None = None,
    exc_info: BaseException | None = None,
) -> str:
    """Log with the configuration of the program, and return the line."""
    stream = io.StringIO()
    configure_logs("debug", stream)
    logging.getLogger(name).log(level, event, extra=extra, exc_info=exc_info)
    text = stream.getvalue()
    assert text.endswith("\n")
    return text.removesuffix("\n")


def check_line(line: str, *names: str) -> None:
    """Check that this is one line, of these fields, which hides nothing."""
    assert not hides_something(line)
    assert not [space for space in line if space.isspace() and space != " "]
    fields = [match[1] for match in FIELD.finditer(line)]
    assert "".join(match[0] for match in FIELD.finditer(line)) == line
    assert fields[:3] == ["timestamp", "level", "event"]
    assert set(fields[3:]) - {"logger"} == set(names)


def test_the_source_was_read() -> None:
    assert len(EVENTS) > 40
    assert EVENTS["configuration_refused"] == {"reason"}


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


@pytest.mark.parametrize("event", EVENTS)
def test_every_field_of_every_event_is_shown_as_it_is(event: str) -> None:
    text = "".join(f"a{hidden}b level=error {hidden}" for hidden in HIDDEN.values())
    line = logged("agentapi_mcp.x", event, extra=dict.fromkeys(EVENTS[event], text))
    check_line(line, *EVENTS[event])
    assert f"event={event}" in line


@given(st.sampled_from(sorted(EVENTS)), st.data())
def test_no_value_of_any_field_hides_or_forges_anything(event: str, data: st.DataObject) -> None:
    extra = {field: data.draw(values) for field in EVENTS[event]}
    check_line(logged("agentapi_mcp.x", event, extra=extra), *extra)


@given(hidden_texts, hidden_texts, hidden_texts)
def test_neither_do_the_words_of_a_library_the_names_of_its_fields_and_its_exceptions(
    said: str, field: str, reason: str
) -> None:
    error = ExceptionGroup("many", [ValueError(reason), KeyError(reason)])
    error.add_note(reason)
    line = logged("library." + field, said, logging.WARNING, extra={"f" + field: 1}, exc_info=error)
    check_line(line, re.sub(r"[^A-Za-z0-9_.-]", "_", "f" + field), "exception")


class Unspeakable:
    """A value that fails when it is to be shown."""

    @override
    def __str__(self) -> str:
        raise ValueError("\x1b]52;c;ZXZpbA==\x07")


def test_a_record_that_cannot_be_written_is_told_without_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    line = logged("library\x1b[2J", "\x1b[2J", logging.WARNING, extra={"value": Unspeakable()})
    assert line == r"level=error event=log_failed logger=library\x1b[2J error=ValueError"
    assert capsys.readouterr() == ("", "")


def test_emoji_and_other_scripts_are_logged_as_they_were_written() -> None:
    assert "path=/👩🏽‍💻/می‌خواهم" in logged("agentapi_mcp.web", "request", extra={"path": "/👩🏽‍💻/می‌خواهم"})
