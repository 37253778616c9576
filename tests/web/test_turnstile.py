"""How many requests begin in a turn of the event loop; counted in turns, not in time."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from anyio.lowlevel import checkpoint
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.core.services import Services
from agentapi_mcp.web.application import WebOptions, create_web
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.turnstile import AT_ONCE, CROWD_EVERY, MOST_OF_FEW, REMEMBERED_FOR, Turnstile


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


@dataclass
class Loop:
    """Tells how much time passes, and how much of it the loop works, as the test says."""

    passed: float = 0.0
    worked: float = 0.0

    def turnstile(self, at_once: int = AT_ONCE) -> Turnstile:
        """Make a turnstile that is told so."""
        return Turnstile(at_once, now=lambda: self.passed, busy=lambda: self.worked)


@dataclass
class Came:
    """Requests that came to a turnstile, and whose they are that have begun; these stay under way."""

    turnstile: Turnstile
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    begun: list[str] = field(default_factory=list[str])
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, sender: str, number: int) -> None:
        """Send requests."""
        self.tasks += [asyncio.ensure_future(self._begin(sender)) for _ in range(number)]

    async def come(self, sender: str, number: int = 1) -> None:
        """Let requests come, and the loop turn until whatever may begin has begun."""
        self.send(sender, number)
        for _ in range(100):
            await checkpoint()

    async def _begin(self, sender: str) -> None:
        await self.turnstile.enter(sender)
        self.begun.append(sender)
        self.has_begun.set()

    def leave(self, sender: str) -> None:
        """Let all requests of a sender that have begun be served."""
        for _ in range(self.begun.count(sender)):
            self.turnstile.leave(sender)

    async def wait_for(self, number: int) -> None:
        """Wait until so many have begun."""
        while len(self.begun) < number:
            self.has_begun.clear()
            await self.has_begun.wait()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
async def came(loop: Loop) -> AsyncGenerator[Came]:
    came = Came(loop.turnstile())
    yield came
    for task in came.tasks:
        task.cancel()
    await asyncio.wait(came.tasks)


async def test_a_crowd_leaves_the_loop_time_for_others(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked = 1.0  # more than a crowd may use, however long ago the last of its requests began
    await came.come("crowd", 20)
    assert came.begun.count("crowd") == MOST_OF_FEW
    await came.come("bo")  # and ann's come before them, too
    await came.come("ann", MOST_OF_FEW - 1)
    assert came.begun.count("bo") == 1
    assert came.begun.count("ann") == MOST_OF_FEW
    begun = len(came.begun)
    loop.passed += CROWD_EVERY
    await came.wait_for(begun + 1)
    await came.come("bo")
    assert came.begun.count("crowd") == MOST_OF_FEW + 1  # one in so much time, however busy the loop is
    loop.passed += 1.0
    await came.wait_for(begun + 2 + 11)
    assert came.begun.count("crowd") == 20


async def test_a_crowd_that_is_alone_waits_for_nothing(loop: Loop, came: Came) -> None:
    loop.worked = 1.0
    await came.come("crowd", 100)
    assert came.begun.count("crowd") == 100


async def test_whoever_was_served_is_there_for_a_while(loop: Loop, came: Came) -> None:
    await came.come("ann")
    came.leave("ann")
    loop.passed, loop.worked = REMEMBERED_FOR, 2 * REMEMBERED_FOR
    await came.come("crowd", 20)
    assert came.begun.count("crowd") < 20
    loop.passed += 0.01  # less than after which one begins in any case
    await came.wait_for(1 + 20)


async def test_whoever_is_being_served_is_there(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.passed, loop.worked = 2 * REMEMBERED_FOR, 4 * REMEMBERED_FOR
    await came.come("crowd", 20)
    assert came.begun.count("crowd") == MOST_OF_FEW + 1


async def test_requests_that_were_served_make_no_crowd(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked = 1.0
    for _ in range(5):
        await came.come("many", MOST_OF_FEW)
        assert came.begun.count("many") == MOST_OF_FEW
        came.leave("many")
        came.begun.clear()


async def test_of_a_crowd_that_may_begin_one_begins_at_a_time(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.passed = 100.0
    turns = Counter[int]()
    for turn in range(1000):
        begun = len(came.begun)
        if turn == 0:
            came.send("crowd", 20)
        await checkpoint()
        turns[turn] = len(came.begun) - begun
    await came.wait_for(1 + 20)
    assert [number for number in turns.values() if number > 1] == [MOST_OF_FEW]


async def test_time_in_which_nobody_came_is_not_saved_up(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.passed = 100.0
    await came.come("crowd", MOST_OF_FEW + 1)
    assert came.begun.count("crowd") == MOST_OF_FEW + 1
    loop.worked = 0.01
    await came.come("crowd")
    assert came.begun.count("crowd") == MOST_OF_FEW + 1


async def test_a_request_cancelled_as_it_may_begin_is_not_under_way(loop: Loop) -> None:
    came = Came(loop.turnstile(at_once=1))
    await came.come("ann")
    loop.worked = 1.0
    came.send("bo", 2)
    await checkpoint()  # one began
    await checkpoint()  # and now the other may
    assert came.begun.count("bo") == 1
    came.tasks[-1].cancel()
    await came.come("bo", MOST_OF_FEW - 1)
    assert came.begun.count("bo") == MOST_OF_FEW


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
