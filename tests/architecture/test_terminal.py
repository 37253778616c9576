"""Everything that is printed or logged passes the one module that cleans it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentapi_mcp

SOURCE = Path(agentapi_mcp.__file__).parent
TERMINAL, LOGS = SOURCE / "cli" / "terminal.py", SOURCE / "telemetry.py"
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != TERMINAL)
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
ASKING = {"isatty", "fileno", "flush", "close", "encoding"}  # of a stream, none of which prints
PRINTERS = {"print", "pprint", "print_exc", "print_exception", "print_stack", "print_last", "input"}
CLICKS = {"echo", "secho", "echo_via_pager", "progressbar", "style", "clear", "get_text_stream", "get_binary_stream"}
HANDLERS = {"StreamHandler", "basicConfig", "lastResort", "dup2"}
# Where a descriptor or a stream is named for another reason than to print on it.
EXCEPTIONS = {
    ("base/new_files.py", "os.write"): "writes a file",
    ("telemetry.py", "sys.stderr"): "the stream of the log, which its handler cleans",
    ("telemetry.py", "StreamHandler"): "the handler that cleans",
    ("edges/mcp/transports/stdio.py", "os.dup2"): "stdout carries the protocol",
    ("base/descriptors.py", "os.write"): "what carries the protocol is written with it",
    ("edges/mcp/transports/handed_over.py", "descriptors.write"): "stdout carries the protocol",
    ("edges/mcp/front/thread.py", "os.write"): "stdout carries the protocol",
    ("resident/bridge.py", "descriptors.write"): "stdout carries the protocol",
    ("resident/bridge.py", "os.write"): "stderr carries what is printable",
}


def names_past_the_sink(tree: ast.AST) -> Iterator[str]:
    """List what prints otherwise, or could."""
    asked = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ASKING and isinstance(node.value, ast.Attribute)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr=stream) if stream in STREAMS and id(node) not in asked:
                yield f"sys.{stream}"
            case ast.Attribute(value=ast.Name(id="click"), attr=name) if name in CLICKS:
                yield f"click.{name}"
            case ast.Attribute(value=ast.Name(id="os" | "descriptors" as module), attr="write" | "dup2" as name):
                yield f"{module}.{name}"
            case ast.Attribute(attr=name) if name in HANDLERS | PRINTERS - {"input"} and not _of_os(node):
                yield name
            case ast.Call(func=ast.Name(id=name)) if name in PRINTERS:
                yield name
            case ast.ImportFrom(module="sys" | "click" | "logging" as module):
                yield from (f"{module}.{each.name}" for each in node.names if each.name in STREAMS | CLICKS | HANDLERS)
            case _:
                pass


def _of_os(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "os"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_prints_past_the_terminal(path: Path) -> None:
    place = path.relative_to(SOURCE).as_posix()
    found = set(names_past_the_sink(ast.parse(path.read_text(encoding="utf-8"))))
    assert not {name for name in found if (place, name) not in EXCEPTIONS}
    assert {name for where, name in EXCEPTIONS if where == place} <= found


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "import sys\nsys.stdout.write('x')",
        "import sys\nout = sys.stderr",
        "import sys\nsys.stdout.buffer.write(b'x')",
        "import sys\nprint_to(sys.__stderr__)",
        "from sys import stdout",
        "import click\nclick.echo('x')",
        "import click\nclick.secho('x')",
        "from click import echo",
        "import os\nos.write(1, b'x')",
        "import traceback\ntraceback.print_exc()",
        "import logging\nlogging.basicConfig()",
        "import logging\nlogging.StreamHandler()",
        "input('x')",
    ],
)
def test_what_prints_past_it_is_found(source: str) -> None:
    assert list(names_past_the_sink(ast.parse(source)))


def test_asking_a_stream_is_no_printing() -> None:
    assert not list(names_past_the_sink(ast.parse("import sys\nsys.stdout.isatty()\nsys.stderr.flush()")))
