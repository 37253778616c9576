"""The line of a request in the log, of whatever anybody sends without a token."""

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import strategies as st

from agentapi_mcp.telemetry import configure_logs
from agentapi_mcp.web.application import WebOptions
from tests.support.connect import open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.hostile import holds
from tests.support.peers.openai import OpenAIPeer
from tests.support.visibility import HIDDEN, WRITTEN, hidden_texts, hides_something
from tests.test_telemetry import FIELD

# As `curl -g` sends it: a terminal would clear the line, turn red, and copy "evil" to the clipboard.
ATTACK = "x%0d%1b[31m%1b]52;c;ZXZpbA==%07"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root, ours, stream = logging.getLogger(), logging.getLogger("agentapi_mcp"), io.StringIO()
    before = root.handlers[:], root.level, ours.level
    configure_logs("info", stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


async def send(base: str, request: bytes) -> bytes:
    """Send a request as it is, and return what comes until the connection is closed."""
    host, port = base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_no_request_writes_anything_hidden_or_a_second_line_into_the_log(
    edge_home: Path, log: io.StringIO
) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as place,
    ):

        async def check(part: tuple[str, str]) -> None:
            path, host = part
            log.seek(0)
            log.truncate()
            head = f"GET /{path} HTTP/1.1\r\nhost: {host}\r\nx-forwarded-for: {path}\r\nuser-agent: {path}\r\n"
            answer = await send(place.base, f"{head}connection: close\r\n\r\n".encode("ascii", "replace"))
            assert answer.startswith(b"HTTP/1.1 4")
            lines = log.getvalue().removesuffix("\n").split("\n")
            assert not any(map(hides_something, lines))
            [line] = [line for line in lines if "event=http_request" in line]
            # A proxy that is not trusted is told of once.
            assert {line.partition("event=")[2].partition(" ")[0] for line in lines} <= {
                "http_request",
                "proxy_not_trusted",
            }
            names = [match[1] for match in FIELD.finditer(line)]
            assert names[:3] == ["timestamp", "level", "event"]
            assert sorted(names[3:]) == [
                "client",
                "logger",
                "method",
                "milliseconds",
                "path",
                "request_id",
                "status",
                "trace_id",
            ]

        paths = hidden_texts.map(lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="[];="))
        hosts = st.sampled_from([place.base.removeprefix("http://"), "evil.example"])
        known = quote("".join([*HIDDEN.values(), *WRITTEN]).encode("utf-8", "surrogatepass"))
        await holds(
            st.tuples(paths, hosts), check, examples=60, also=[(ATTACK, "evil.example"), (known, "evil.example")]
        )
        await check((ATTACK, "evil.example"))
        assert r'path="/x\r\x1b[31m\x1b]52;c;ZXZpbA==\x07"' in log.getvalue()
