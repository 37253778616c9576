"""How many requests begin in a turn of the event loop; counted in turns, not in time."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from anyio.lowlevel import checkpoint
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from agentapi_mcp.core.services import Services
from agentapi_mcp.web.application import WebOptions, create_web
from agentapi_mcp.web.mounts import AuthenticationMode, Mount
from agentapi_mcp.web.requests import ARRIVAL, Arrival
from agentapi_mcp.web.turnstile import (
    AT_ONCE,
    BYTES_OF_ONE,
    CROWD_EVERY,
    LONGEST_TURN,
    LONGEST_WAIT,
    MOST_BYTES_WAITING,
    MOST_OF_FEW,
    MOST_WAITING,
    MOST_YOUNG,
    REMEMBERED_FOR,
    Paced,
    Passage,
    Sender,
    Turnstile,
)


@dataclass
class Loop:
    """Tells how much time passes, and how much of it the loop works, as the test says."""

    passed: float = 100.0
    worked: float = 100.0

    def turnstile(self, at_once: int = AT_ONCE) -> Turnstile:
        """Make a turnstile that is told so."""
        return Turnstile(at_once, now=lambda: self.passed, busy=lambda: self.worked)


@dataclass
class Arrivals:
    """What the HTTP server tells of some requests."""

    bytes: int = 0
    are_gone: bool = False
    held: int = 0
    asked: int = 0

    def next(self) -> Arrival:
        """Tell of another one."""
        return Arrival(self._hold, self._is_gone)

    def _hold(self) -> int:
        self.held += 1
        return self.bytes

    def _is_gone(self) -> bool:
        self.asked += 1
        return self.are_gone


@dataclass
class Came:
    """Requests that came to a turnstile, and whose they are that have begun; these stay under way."""

    turnstile: Turnstile
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    begun: list[str] = field(default_factory=list[str])
    passages: list[Passage] = field(default_factory=list[Passage])
    refused: int = 0
    told: Counter[str] = field(default_factory=Counter[str])  # whose were refused
    arrivals: Arrivals = field(default_factory=Arrivals)  # of those who come next
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, who: str, number: int = 1) -> None:
        """Send requests; who has a name in capitals is not known yet."""
        self.tasks += [asyncio.ensure_future(self._begin(who)) for _ in range(number)]

    async def come(self, who: str, number: int = 1) -> None:
        """Let requests come, and the loop turn until whatever may begin has begun."""
        self.send(who, number)
        for _ in range(100):
            await checkpoint()

    async def _begin(self, who: str) -> None:
        passage = await self.turnstile.enter(Sender(who, is_known=who.islower()), self.arrivals.next())
        if passage is None:
            self.refused += 1
            self.told[who] += 1
            return
        self.begun.append(who)
        self.passages.append(passage)
        self.has_begun.set()

    async def hold_a_crowd_back(self, loop: Loop) -> None:
        """Let a few of a crowd begin, and no more, since somebody else is there and the loop has worked for long."""
        await self.come("ann")
        loop.worked += 1.0
        await self.come("crowd", MOST_OF_FEW)

    def leave(self, who: str) -> None:
        """Let all requests of a sender that have begun be served."""
        for passage in [passage for passage in self.passages if passage.line.sender.who == who]:
            self.turnstile.leave(passage)
            self.passages.remove(passage)

    def count(self, who: str) -> int:
        """Count the requests of a sender that have begun."""
        return self.begun.count(who)

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


async def test_a_crowd_begins_a_few_at_a_time_in_the_order_in_which_it_came() -> None:
    turnstile, loop_turns, is_over = Turnstile(at_once=3), 0, asyncio.Event()
    begun: list[tuple[int, int]] = []

    async def count() -> None:
        nonlocal loop_turns
        while not is_over.is_set():
            loop_turns += 1
            await checkpoint()

    async def request(number: int) -> None:
        passage = await turnstile.enter(Sender("crowd", is_known=True))
        assert passage is not None
        turnstile.leave(passage)
        begun.append((number, loop_turns))
        if len(begun) == 500:
            is_over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(count())
        for number in range(500):
            group.create_task(request(number))
    assert [number for number, _ in begun] == list(range(500))
    assert max(Counter(turn for _, turn in begun).values()) == 3


async def test_who_sends_one_request_waits_behind_no_crowd_of_another(loop: Loop) -> None:
    came = Came(loop.turnstile(at_once=2))
    for who in [*["crowd"] * 100, "ann", "bo", "ann"]:
        came.send(who)
    await came.wait_for(10)
    assert [came.begun.index(who) < 10 for who in ("ann", "bo")] == [True, True]
    assert came.begun[:10].count("ann") == 2


async def test_a_crowd_that_is_alone_may_keep_the_loop_busy(loop: Loop, came: Came) -> None:
    loop.worked += 50.0
    for _ in range(10):
        await came.come("crowd", 20)
        came.leave("crowd")
    assert came.count("crowd") == 200


async def test_of_a_crowd_so_many_have_begun_and_are_not_served(loop: Loop, came: Came) -> None:
    await came.come("crowd", 100)
    assert came.count("crowd") == MOST_YOUNG
    loop.passed += 1.0  # they wait for something
    await came.wait_for(100)


async def test_crowds_do_not_keep_the_loop_idle_for_one_another(loop: Loop, came: Came) -> None:
    for who in ("crowd", "mob"):  # each began with few
        await came.come(who)
        came.leave(who)
    came.begun.clear()
    loop.worked += 50.0
    came.send("crowd", 20)
    came.send("mob", 20)
    await came.wait_for(40)
    assert loop.passed == Loop().passed


async def test_a_crowd_leaves_the_loop_time_for_somebody_who_sends_few(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked += 1.0  # more than a crowd may use
    await came.come("crowd", 20)
    assert came.count("crowd") == MOST_OF_FEW
    await came.come("bo")  # and ann's come before them, too
    await came.come("ann", MOST_OF_FEW - 1)
    assert (came.count("bo"), came.count("ann")) == (1, MOST_OF_FEW)
    loop.passed += 1.0
    await came.wait_for(2 * MOST_OF_FEW + 1 + 12)
    assert came.count("crowd") == 20


async def test_each_crowd_begins_one_after_a_while_however_busy_the_loop_is(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked += 1.0
    await came.come("crowd", 20)
    await came.come("mob", 20)
    assert (came.count("crowd"), came.count("mob")) == (MOST_OF_FEW, 1)
    loop.worked += 1.0
    loop.passed += CROWD_EVERY
    await came.wait_for(1 + MOST_OF_FEW + 1 + 2)
    await came.come("ann")
    assert (came.count("crowd"), came.count("mob")) == (MOST_OF_FEW + 1, 2)


async def test_of_a_crowd_that_may_begin_one_begins_at_a_time(loop: Loop, came: Came) -> None:
    await came.come("ann")
    came.send("crowd", 20)
    begun, most = len(came.begun), list[int]()
    while len(came.begun) < 1 + 20:
        loop.passed += 0.001
        await checkpoint()
        most.append(len(came.begun) - begun)
        begun = len(came.begun)
    # And one more, since none may have begun for a while.
    assert [number for number in most if number > 2] == [MOST_OF_FEW]


async def test_who_has_waited_for_long_is_refused_one_in_a_turn_of_the_loop(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked += 1000.0
    await came.come("crowd", 40)
    until, refused = loop.passed + LONGEST_WAIT, list[int]()
    for _ in range(4):
        loop.passed += (LONGEST_WAIT - CROWD_EVERY) / 4  # in so few steps, few of the crowd begin
        await came.come("ann")
    await came.come("crowd", 5)
    waiting = 45 - came.count("crowd") - 1  # one begins after a while
    assert (came.refused, waiting > 20) == (0, True)
    loop.worked += 1000.0
    loop.passed = until
    came.send("ann")
    while came.refused < waiting - 5:
        before = came.refused
        await checkpoint()
        refused.append(came.refused - before)
    assert max(refused) == 1
    assert len(refused) < 2 * waiting  # without a pause
    await came.come("ann")
    assert came.refused == waiting - 5  # and nobody who came later


async def test_time_in_which_nobody_came_is_not_saved_up(loop: Loop, came: Came) -> None:
    loop.passed += 100.0
    await came.come("ann")
    await came.come("crowd", MOST_OF_FEW + 1)
    assert came.count("crowd") == MOST_OF_FEW + 1
    loop.worked += 0.01
    await came.come("crowd")
    assert came.count("crowd") == MOST_OF_FEW + 1


@pytest.mark.parametrize("who", ["ann", "STRANGER"])
async def test_only_who_is_known_and_was_there_just_now_holds_a_crowd_back(loop: Loop, came: Came, who: str) -> None:
    await came.come(who)
    loop.worked += 1.0
    await came.come("crowd", 20)
    assert came.count("crowd") == (MOST_OF_FEW if who == "ann" else 20)
    loop.worked += REMEMBERED_FOR
    loop.passed += REMEMBERED_FOR - CROWD_EVERY / 2
    await came.wait_for(1 + 9)
    loop.worked += 1.0
    loop.passed += CROWD_EVERY  # ann's request is still under way, and is not worth waiting for
    await came.wait_for(1 + 20)


async def test_a_crowd_begins_little_while_the_turns_of_the_loop_are_long(loop: Loop, came: Came) -> None:
    loop.worked += 1.0
    came.send("crowd", 40)
    await checkpoint()
    assert came.count("crowd") == MOST_OF_FEW
    turns = list[int]()
    for _ in range(10):
        loop.passed += 1.5 * LONGEST_TURN
        begun = came.count("crowd")
        await checkpoint()
        turns.append(came.count("crowd") - begun)
    # One in so much time, however long the turns are.
    assert sum(turns) == pytest.approx(10 * 1.5 * LONGEST_TURN / CROWD_EVERY, abs=1)
    await came.wait_for(40)


async def test_what_is_under_way_for_long_makes_no_crowd(loop: Loop, came: Came) -> None:
    await came.come("streams", MOST_OF_FEW)
    loop.passed += 1.0
    await came.come("ann")
    loop.worked += 10.0
    await came.come("streams", MOST_OF_FEW)
    assert came.count("streams") == 2 * MOST_OF_FEW


async def test_requests_that_were_served_make_no_crowd(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked += 1.0
    for served in range(5):
        await came.come("many", MOST_OF_FEW)
        assert came.count("many") == (served + 1) * MOST_OF_FEW
        came.leave("many")


async def test_a_request_cancelled_as_it_may_begin_is_not_under_way(loop: Loop) -> None:
    came = Came(loop.turnstile(at_once=1))
    await came.come("ann")
    loop.worked += 1.0
    came.send("bo", 2)
    await checkpoint()  # one began
    await checkpoint()  # and now the other may
    assert came.count("bo") == 1
    came.tasks[-1].cancel()
    await came.come("bo", MOST_OF_FEW - 1)
    assert came.count("bo") == MOST_OF_FEW


async def test_of_one_sender_so_many_wait_and_others_are_not_refused(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked += 1.0
    await came.come("crowd", MOST_OF_FEW + MOST_WAITING + 3)
    assert came.refused == 3
    await came.come("ann")
    assert came.count("ann") == 2


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
            turnstile.enter(Sender("alone", is_known=False)).send(None)
        await checkpoint()


async def test_a_request_that_is_cancelled_while_it_waits_takes_nobodys_place() -> None:
    came = Came(Turnstile(at_once=1))
    for who in "abcd":
        came.send(who)
    await checkpoint()
    came.tasks[1].cancel()
    await asyncio.wait(came.tasks)
    assert came.begun == ["a", "c", "d"]


async def test_whose_client_is_gone_never_begins_and_takes_nobodys_place(loop: Loop, came: Came) -> None:
    await came.hold_a_crowd_back(loop)
    came.arrivals = Arrivals()
    await came.come("crowd", MOST_WAITING)
    came.arrivals.are_gone = True
    came.arrivals = Arrivals()
    await came.come("crowd", 3)
    assert came.refused == MOST_WAITING
    await came.come("crowd", MOST_WAITING - 3)
    assert (came.count("crowd"), came.refused) == (MOST_OF_FEW, MOST_WAITING)
    await came.come("crowd")
    assert came.refused == MOST_WAITING + 1
    loop.passed += CROWD_EVERY
    await came.come("ann")
    assert came.count("crowd") == MOST_OF_FEW + 1


async def test_whose_client_is_gone_is_passed_over_when_its_turn_comes(loop: Loop, came: Came) -> None:
    await came.hold_a_crowd_back(loop)
    came.arrivals = Arrivals()
    await came.come("crowd", 5)
    came.arrivals.are_gone = True
    came.arrivals = Arrivals()
    await came.come("crowd")
    loop.passed += CROWD_EVERY
    await came.come("ann")
    assert (came.count("crowd"), came.refused) == (MOST_OF_FEW + 1, 5)


async def test_who_is_the_first_behind_clients_who_are_gone_is_in_the_same_line(loop: Loop, came: Came) -> None:
    await came.hold_a_crowd_back(loop)
    came.arrivals = Arrivals()
    await came.come("crowd", MOST_WAITING)
    came.arrivals.are_gone = True
    came.leave("crowd")
    came.arrivals = Arrivals()
    await came.come("crowd", 3)
    assert came.count("crowd") == MOST_OF_FEW + 3
    await came.come("crowd", MOST_OF_FEW)
    assert came.count("crowd") == 2 * MOST_OF_FEW


async def test_a_full_line_is_searched_for_clients_who_are_gone_once_in_a_while(loop: Loop, came: Came) -> None:
    await came.hold_a_crowd_back(loop)
    came.arrivals = Arrivals()
    await came.come("crowd", MOST_WAITING)
    asked = came.arrivals.asked
    await came.come("crowd", 50)
    assert came.refused == 50
    assert came.arrivals.asked - asked < 1.1 * MOST_WAITING


async def test_what_waits_takes_up_so_much_and_whoever_takes_up_most_is_refused(loop: Loop, came: Came) -> None:
    await came.come("ann")
    loop.worked += 1.0
    came.arrivals = Arrivals(bytes=MOST_BYTES_WAITING // 100 - BYTES_OF_ONE)
    await came.come("crowd", MOST_OF_FEW + 100)
    assert came.refused == 0
    await came.come("crowd")
    assert (came.refused, came.told["crowd"]) == (1, 1)
    await came.come("mob", 1 + 10)  # one of it begins
    assert (came.refused, came.told["crowd"]) == (12, 12)
    await came.come("mob", 50)
    assert (came.told["crowd"], came.told["mob"]) == (51, 10)  # each has half
    loop.worked -= 1.0
    loop.passed += 100.0
    await came.wait_for(1 + MOST_OF_FEW + 1 + 100)
    await came.come("crowd", 90)
    assert came.refused == 61


async def test_only_a_request_that_waits_is_not_read_on(loop: Loop, came: Came) -> None:
    came.arrivals = Arrivals()
    await came.come("ann")
    assert came.arrivals.held == 0
    loop.worked += 1.0
    await came.come("crowd", MOST_OF_FEW + 3)
    assert came.arrivals.held == 3


@pytest.mark.parametrize(("is_gone", "status"), [(False, 429), (True, 408)])
async def test_whom_too_many_requests_wait_for_is_told_to_send_fewer(*, is_gone: bool, status: int) -> None:
    class Full(Turnstile):
        """Lets nobody in of whose arrival it is told."""

        @override
        async def enter(self, sender: Sender, arrival: Arrival | None = None) -> Passage | None:
            """Refuse."""
            assert arrival == told

    async def serve(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError("it does not begin")

    messages = list[Message]()

    async def send(message: Message) -> None:
        messages.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    mount = Mount(paths=("/",), app=serve, authentication=AuthenticationMode.OPEN)
    paced = Paced(serve, mount, Full(), lambda _: Sender("crowd", is_known=True))
    told = Arrivals(are_gone=is_gone).next()
    await paced({"type": "http", "method": "POST", "path": "/", "headers": [], ARRIVAL: told}, receive, send)
    assert messages[0]["status"] == status
    assert ((b"retry-after", b"1") in messages[0]["headers"]) != is_gone
