"""From the front to the server: no byte is lost, doubled or out of order, whenever and however the client writes."""

import asyncio
import fcntl
import json
import os
import re
import struct
import termios
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import pairwise

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.front.answers import CHANGED, Front
from agentapi_mcp.edges.mcp.front.thread import FrontThread, Handover
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.transports.handed_over import HandedOver, UnreadInput, unread_lines
from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio
from tests.support.front_answers import INITIALIZED, initialize, listen, modern, request
from tests.support.waiting import wait_until

# What the front keeps at most, and one more read of it.
MOST_UNREAD = 262_144 + 65_536
MOST_UNWRITTEN = 262_144 + 20_000
MEGABYTE = 1_000_000


class ClosedStores:
    """Stores that are not there."""

    def find(self) -> Services | None:
        """Return nothing."""
        return None

    async def services(self) -> Services:
        """Refuse."""
        raise StoreUnavailableError("The database is not up yet.")


def front() -> Front:
    found = Front.load(None)
    assert found is not None
    return found


@dataclass
class Client:
    """A client on its pipes, and the front at their other ends."""

    thread: FrontThread
    stdin: int
    stdout: int
    to_server: int
    from_server: int

    @contextmanager
    def writing(
        self, pieces: Sequence[bytes], stops: int | None = None, *, closes: bool = True
    ) -> Generator[threading.Event]:
        """Write, and close stdin; the event is set before the piece of this number, or at the end."""
        reached = threading.Event()

        def write() -> None:
            for number, piece in enumerate(pieces):
                if number == stops:
                    reached.set()
                view = memoryview(piece)
                while view:
                    view = view[os.write(self.to_server, view) :]
            if closes:
                self.close()
            reached.set()

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield reached
        finally:
            thread.join(20)
            assert not thread.is_alive()

    def close(self) -> None:
        """Close stdin."""
        os.close(self.to_server)
        self.to_server = -1

    def rest(self) -> bytes:
        """Return what came out, once the server has closed its end."""
        os.close(self.stdout)
        self.stdout = -1
        found = bytearray()
        while piece := os.read(self.from_server, 65_536):
            found += piece
        return bytes(found)

    def unread(self) -> int:
        """Return how many bytes wait for the front."""
        return waiting(self.stdin)

    def is_stuck(self) -> Callable[[], bool]:
        """Return what tells whether the front has stopped to read: what is in its pipe stays the same."""
        seen = list[int]()

        def holds() -> bool:
            seen.append(self.unread())
            return len(seen) > 40 and seen[-1] > 0 and set(seen[-40:]) == {seen[-1]}

        return holds


@contextmanager
def client_of(chosen: Front | None = None, *, starts: bool = True) -> Generator[Client]:
    (stdin, to_server), (from_server, stdout) = os.pipe(), os.pipe()
    client = Client(FrontThread(chosen or front(), stdin, stdout), stdin, stdout, to_server, from_server)
    if starts:
        client.thread.start()
    try:
        yield client
    finally:
        for descriptor in (client.stdin, client.stdout, client.to_server, client.from_server):
            if descriptor >= 0:
                os.close(descriptor)


def everything(handover: Handover, descriptor: int) -> bytes:
    """Read what the server reads, to its end."""
    source = UnreadInput(handover, descriptor)
    found = bytearray()
    buffer = bytearray(10_000)
    while count := source.readinto(buffer):
        found += buffer[:count]
    return bytes(found)


def without_blank_lines(lines: bytes) -> bytes:
    """Return the lines that say something; a front that stopped leaves the others to the server, which skips them."""
    return re.sub(rb"(?m)^[ \t\r]*\n", b"", lines)


def expected(lines: bytes, written: bytes) -> tuple[bytes, bytes]:
    """Return what the front wrote beyond its answers to these lines, and what it must have left to the server."""
    model, opening, rest = front(), b"", list[bytes]()
    *whole, last = without_blank_lines(lines).split(b"\n")
    for line in [*(each + b"\n" for each in whole), *filter(None, [last])]:
        answer = model.answer(line) if line.endswith(b"\n") else None
        if answer is None or not written.startswith(answer.line):
            rest.append(line)
            continue
        written = written.removeprefix(answer.line)
        opening = line if answer.forwarded else opening
        if answer.instead:
            rest.append(line)
    return written.removeprefix(CHANGED), opening + b"".join(rest)


def conversation(kinds: Sequence[str], era: str) -> bytes:
    """Write lines of these kinds, with an id for each."""
    written = [initialize(key="é-0"), INITIALIZED] if era == "handshake" else [modern("server/discover", key="é-0")]
    for number, kind in enumerate(kinds):
        listed = request(kind, key=number) if era == "handshake" else modern(kind, number)
        call = request("tools/call", {"name": "list_agents", "arguments": {}}, number)
        written.append(
            {
                "call": call,
                "crlf": listed.replace(b"crlf", b"ping").replace(b"\n", b"\r\n"),
                "long": call.replace(b"{}", b'{"a":"' + b"x" * 70_000 + b'"}'),
                "longest": call.replace(b"{}", b'{"a":"' + b"x" * MEGABYTE + b'"}'),
                "no text": call.replace(b"list_", b"\xff\xfe"),
                "no JSON": b"what is this %d\n" % number,
                "empty": b"\n",
                "listen": listen(number),
                "no end": call.rstrip(),
            }.get(kind, listed)
        )
    return b"".join(written)


KINDS = ["tools/list", "prompts/list", "resources/templates/list", "resources/list", "ping", "call", "crlf", "long"]
ODD_KINDS = ["no text", "no JSON", "empty"]


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([*KINDS, *ODD_KINDS, "listen"]), max_size=8),
    end=st.sampled_from(["ping", "no end"]),
    era=st.sampled_from(["handshake", "modern"]),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    handed_over=st.integers(0, 6),
    is_late=st.booleans(),
)
@example(kinds=["tools/list"] * 40, end="ping", era="handshake", cuts=[], handed_over=1, is_late=True)
@example(kinds=["ping", "longest", "ping"], end="no end", era="handshake", cuts=[0.5], handed_over=1, is_late=True)
@example(kinds=["ping"] * 300, end="no end", era="handshake", cuts=[], handed_over=1, is_late=True)
def test_every_byte_is_answered_or_left_to_the_server_in_order(
    *, kinds: list[str], end: str, era: str, cuts: list[float], handed_over: int, is_late: bool
) -> None:
    lines = conversation([*kinds, end], era)
    places = [0, *sorted(int(cut * len(lines)) for cut in cuts), len(lines)]
    pieces = [lines[begin:stop] for begin, stop in pairwise(places)]
    with client_of() as client:
        with client.writing(pieces, handed_over) as reached:
            is_stuck = client.is_stuck()
            wait_until(lambda: (reached.is_set() and not (is_late and client.unread())) or is_stuck(), interval=0.001)
            handover = client.thread.hand_over()
            left = everything(handover, client.stdin)
        more, given_to_server = expected(lines, client.rest() + bytes(handover.unwritten))
    assert more == b""
    assert without_blank_lines((handover.opening or b"") + left) == given_to_server


def test_blank_lines_keep_nobody_from_an_answer() -> None:
    lines = b"\n\r\n" + initialize() + b" \n" + INITIALIZED + b"\n\n" + request("tools/list", key=7) + b"\n"
    with client_of() as client, client.writing([lines]) as reached:
        reached.wait(20)
        wait_until(lambda: not client.unread())
        handover = client.thread.hand_over()
        assert (handover.opening, everything(handover, client.stdin)) == (initialize(), INITIALIZED)
        answered = (client.rest() + bytes(handover.unwritten)).splitlines()
    assert [json.loads(line)["id"] for line in answered] == [json.loads(initialize())["id"], 7]


def test_what_is_kept_for_a_server_that_is_slow_to_come_is_bounded() -> None:
    call = request("tools/call", {"name": "chat", "arguments": {"message": "x" * 1000}})
    lines = [initialize(), *[call] * 2000]
    with client_of() as client, client.writing([b"".join(lines)]):
        wait_until(client.is_stuck())
        handover = client.thread.hand_over()
        assert len(handover.unread) <= MOST_UNREAD
        assert (handover.opening or b"") + everything(handover, client.stdin) == b"".join(lines)


def test_a_line_without_an_end_is_bounded_too() -> None:
    with client_of() as client, client.writing([b"x" * MEGABYTE]):
        wait_until(client.is_stuck())
        handover = client.thread.hand_over()
        assert len(handover.unread) <= MOST_UNREAD
        assert everything(handover, client.stdin) == b"x" * MEGABYTE


def test_a_client_that_reads_nothing_holds_nobody_up_and_finds_all_its_answers() -> None:
    lines = b"".join([initialize(), *(request("tools/list", key=number) for number in range(5000))])
    with client_of() as client, client.writing([lines]):
        wait_until(client.is_stuck())
        handover = client.thread.hand_over()
        assert len(handover.unwritten) <= MOST_UNWRITTEN
        left = everything(handover, client.stdin)
        more, given_to_server = expected(lines, client.rest() + bytes(handover.unwritten))
    assert more == b""
    assert (handover.opening or b"") + left == given_to_server


def test_a_client_that_has_closed_its_end_is_left_to_the_server() -> None:
    with client_of() as client:
        os.close(client.from_server)
        client.from_server = -1
        with client.writing([initialize()]) as reached:
            reached.wait(20)
        handover = client.thread.hand_over()
        assert (handover.opening or b"") + everything(handover, client.stdin) == initialize()


async def heard(client: Client, handover: Handover | None, count: int) -> list[bytes]:
    """Let the server take over, and return all that the client hears; it leaves when these are so many lines."""
    server = create_server(ClosedStores(), McpOptions())
    stdout = TextIOWrapper(os.fdopen(client.stdout, "wb"), encoding="utf-8")
    client.stdout = -1
    stdin = unread_lines(handover or Handover(), client.stdin)

    async def serve() -> None:
        await serve_stdio(server, anyio.wrap_file(stdin), anyio.wrap_file(stdout), handover=handover)
        stdout.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(serve())
        return await asyncio.to_thread(read_lines, client, count)


def read_lines(client: Client, count: int) -> list[bytes]:
    """Read so many lines, close stdin, and read on to the end of the server's."""
    found = bytearray()
    while found.count(b"\n") < count and (piece := os.read(client.from_server, 65_536)):
        found += piece
    client.close()
    while piece := os.read(client.from_server, 65_536):
        found += piece
    return bytes(found).splitlines(keepends=True)


ASKED = [each for each in (*KINDS, *ODD_KINDS, *KINDS) if each != "resources/list"]


@pytest.mark.parametrize("era", ["handshake", "modern"])
@pytest.mark.parametrize("stops", [0, 1, 3, 9, 99])
async def test_a_client_hears_the_same_with_and_without_a_front(era: str, stops: int) -> None:
    lines = conversation(ASKED, era).splitlines(keepends=True)
    count = len(lines) - lines.count(INITIALIZED) - lines.count(b"\n")
    with client_of() as client, client.writing(lines, stops, closes=False) as reached:
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        with_front = await heard(client, client.thread.hand_over(), count)
    with client_of(starts=False) as client, client.writing(lines, closes=False):
        without = await heard(client, None, count)
    assert sorted(with_front) == sorted(without)
    assert len(with_front) == count


async def test_a_connection_stays_in_the_era_that_the_front_has_opened() -> None:
    with (
        client_of() as client,
        client.writing([modern("server/discover", 1), initialize(key=2)], closes=False) as reached,
    ):
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        answers = await heard(client, client.thread.hand_over(), 2)
    assert [json.loads(line)["id"] for line in answers] == [1, 2]
    assert json.loads(answers[1])["error"]["code"] == -32022


async def test_a_client_that_was_told_too_few_resources_is_told_to_list_them_again() -> None:
    lines = [initialize(key=1), INITIALIZED, request("resources/list", key=2), request("resources/list", key=3)]
    with client_of() as client, client.writing(lines, closes=False) as reached:
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        answers = await heard(client, client.thread.hand_over(), 4)
    assert answers[2] == CHANGED
    assert [json.loads(line).get("id") for line in answers] == [1, 2, None, 3]
    assert "error" in json.loads(answers[3])


async def test_an_answer_that_differs_from_the_servers_is_told_to_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    liar = Front({"2025-11-25": '{"protocolVersion":"2025-11-25"}'}, "2025-11-25", {"handshake": {}, "modern": {}})
    with (
        client_of(liar) as client,
        client.writing([initialize(key=1), request("ping", key=2)], closes=False) as reached,
    ):
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        answers = await heard(client, client.thread.hand_over(), 2)
    assert [json.loads(line)["id"] for line in answers] == [1, 2]
    assert [record.message for record in caplog.records].count("front_answered_otherwise") == 1


async def test_what_the_client_has_not_read_comes_before_all_that_the_server_writes() -> None:
    lines = [initialize(key=0), *(request("tools/list", key=number) for number in range(1, 16))]
    with client_of() as client, client.writing(lines, closes=False) as reached:
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        handover = client.thread.hand_over()
        assert handover.unwritten
        answers = await heard(client, handover, len(lines))
    assert [json.loads(line)["id"] for line in answers] == list(range(16))


@contextmanager
def taken_over(client: Client, handover: Handover) -> Generator[HandedOver]:
    stdout = TextIOWrapper(os.fdopen(client.stdout, "wb"), encoding="utf-8")
    client.stdout = -1
    with stdout:
        yield HandedOver(handover, anyio.wrap_file(unread_lines(handover, client.stdin)), anyio.wrap_file(stdout))


async def test_no_line_is_read_before_the_server_has_answered_the_opening_too() -> None:
    # Else a cancellation of it, or its id used again, would leave the client without an answer.
    lines = [initialize(key=1), request("tools/call", {"name": "chat"}, 1)]
    with client_of() as client, client.writing(lines) as reached:
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        handover = client.thread.hand_over()
        assert handover.answer is not None
        with taken_over(client, handover) as taken:
            await taken.catch_up()
            assert (await taken.readline()).encode() == lines[0]
            async with asyncio.TaskGroup() as group:
                second = group.create_task(taken.readline())
                assert not (await asyncio.wait({second}, timeout=0.1))[0]
                await taken.write(handover.answer.decode())
            assert second.result().encode() == lines[1]
        assert os.read(client.from_server, 65_536) == handover.answer


async def test_a_client_hears_of_its_resources_in_place_of_a_second_acknowledgement() -> None:
    lines = [modern("server/discover", 1), listen("a"), modern("resources/list", 2)]
    with client_of() as client, client.writing(lines) as reached:
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        handover = client.thread.hand_over()
        assert handover.answer is not None
        assert handover.acknowledged is not None
        with taken_over(client, handover) as taken:
            await taken.catch_up()
            assert (await taken.readline()).encode() == lines[0]
            await taken.write(handover.answer.decode())
            assert (await taken.readline()).encode() == lines[1]
            assert await taken.readline() == ""
            for _ in range(2):  # only the first is the one that the client has
                await taken.write(handover.acknowledged.decode())
            await taken.flush()
        heard_lines = b"".join(iter(lambda: os.read(client.from_server, 65_536), b"")).splitlines(keepends=True)
    assert handover.acknowledged == heard_lines[1] == heard_lines[4]
    assert [json.loads(line).get("method", "result") for line in heard_lines] == [
        *("result", "notifications/subscriptions/acknowledged", "result"),
        *("notifications/resources/list_changed", "notifications/subscriptions/acknowledged"),
    ]


async def test_the_server_writes_when_all_that_the_front_has_left_is_written() -> None:
    lines = [initialize(key=0), *(request("tools/list", key=number) for number in range(1, 16))]
    with client_of() as client, client.writing(lines) as reached:
        await asyncio.to_thread(wait_until, lambda: reached.is_set() and not client.unread())
        handover = client.thread.hand_over()
        assert handover.answer is not None
        # All that is the front's but its end; of it, the pipe has what the front came to write.
        size = waiting(client.from_server) + len(handover.unwritten) - 100
        with taken_over(client, handover) as taken:
            async with asyncio.TaskGroup() as group:
                group.create_task(taken.catch_up())
                await taken.write(handover.answer.decode())
                writing = group.create_task(taken.write("the server's\n"))
                assert not (await asyncio.wait({writing}, timeout=0.1))[0]
                group.create_task(asyncio.to_thread(read_bytes, client.from_server, size))
            await taken.flush()
        assert b"".join(iter(lambda: os.read(client.from_server, 65_536), b"")).endswith(b"}\nthe server's\n")


def waiting(descriptor: int) -> int:
    """Return how many bytes a pipe has."""
    held: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    return held


def read_bytes(descriptor: int, count: int) -> None:
    while count > 0:
        count -= len(os.read(descriptor, min(count, 65_536)))
