"""How many requests begin in a turn of the event loop; counted in turns, not in time."""

import asyncio
from collections import Counter

import pytest
from anyio.lowlevel import checkpoint
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.core.services import Services
from agentapi_mcp.web.application import WebOptions, create_web
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.turnstile import AT_ONCE, Paced, Turnstile


async def test_a_crowd_begins_a_few_at_a_time_in_the_order_in_which_it_came() -> None:
    turnstile, loop_turns, is_over = Turnstile(at_once=3), 0, asyncio.Event()
    begun: list[tuple[int, int]] = []

    async def count() -> None:
        nonlocal loop_turns
        while not is_over.is_set():
            loop_turns += 1
            await checkpoint()

    async def request(number: int) -> None:
        await turnstile.enter("crowd")
        begun.append((number, loop_turns))
        if len(begun) == 500:
            is_over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(count())
        for number in range(500):
            group.create_task(request(number))
    assert [number for number, _ in begun] == list(range(500))
    assert max(Counter(turn for _, turn in begun).values()) == 3
    assert begun[-1][1] - begun[0][1] <= 500 // 3 + 1  # and no turn is left out


async def test_who_sends_one_request_waits_behind_no_crowd_of_another() -> None:
    turnstile, begun = Turnstile(at_once=2), list[str]()

    async def request(sender: str) -> None:
        await turnstile.enter(sender)
        begun.append(sender)

    async with asyncio.TaskGroup() as group:
        for sender in [*["crowd"] * 100, "ann", "bo", "ann"]:
            group.create_task(request(sender))
    assert [begun.index(sender) < 10 for sender in ("ann", "bo")] == [True, True]
    assert begun[:10].count("ann") == 2


@pytest.mark.parametrize(
    ("crowd", "other"),
    [
        (("192.0.2.1", "Bearer a"), ("192.0.2.1", "Bearer b")),
        (("192.0.2.1", None), ("192.0.2.2", None)),
    ],
)
async def test_senders_are_told_apart_by_credentials_and_address(
    crowd: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    begun = list[int]()

    async def serve(scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.append(scope["number"])

    paced = Paced(serve, Turnstile(at_once=1))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        raise AssertionError("nothing is answered")

    async with asyncio.TaskGroup() as group:
        for number, (address, credentials) in enumerate([*[crowd] * 20, other]):
            headers = [] if credentials is None else [(b"authorization", credentials.encode())]
            scope: Scope = {"type": "http", "headers": headers, "client": (address, 1), "number": number}
            group.create_task(paced(scope, receive, send))
    assert begun.index(20) < 5


class NoServices:
    """Stands for services that nobody asks for."""

    def find(self) -> None:
        """Return none."""

    async def services(self) -> Services:
        """Fail the test."""
        raise AssertionError("not asked for")


async def test_every_edge_is_behind_the_turnstile_and_a_probe_is_not() -> None:
    loop_turns, begun, is_over, probed_at = 0, list[int](), asyncio.Event(), list[int]()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(loop_turns)
        await PlainTextResponse("served")(scope, receive, send)

    async def count() -> None:
        nonlocal loop_turns
        while not is_over.is_set():
            loop_turns += 1
            await checkpoint()

    mounts = [Mount(paths=(path,), app=serve, authentication=AuthenticationMode.OPEN) for path in ("/one/", "/two/")]
    app = create_web(NoServices(), mounts, WebOptions()).app

    async def ask(path: str) -> None:
        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200
                probed_at.extend([loop_turns] if path == "/healthz" else [])

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
        await app({**scope, "http_version": "1.1"}, receive, send)

    async with asyncio.TaskGroup() as group:
        group.create_task(count())
        asking = [group.create_task(ask(path)) for path in ["/one/", "/two/"] * 50]
        asking.append(group.create_task(ask("/healthz")))
        await asyncio.wait(asking)
        is_over.set()
    assert len(begun) == 100
    assert max(Counter(begun).values()) == AT_ONCE
    assert probed_at < begun[-1:]


async def test_one_after_the_other_waits_for_nothing() -> None:
    turnstile = Turnstile(at_once=1)
    for _ in range(10):
        with pytest.raises(StopIteration):  # it returned without a wait
            turnstile.enter("alone").send(None)
        await checkpoint()


async def test_a_request_that_is_cancelled_while_it_waits_takes_nobodys_place() -> None:
    turnstile, begun = Turnstile(at_once=1), list[int]()

    async def request(number: int) -> None:
        await turnstile.enter("crowd")
        begun.append(number)

    tasks = [asyncio.ensure_future(request(number)) for number in range(4)]
    await checkpoint()
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert begun == [0, 2, 3]
