"""The balancer of the chaos harness, before replicas that tell who was asked and whether their caller left."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
from chaos.balancer import Balancer
from chaos.processes import free_port


@dataclass
class Replica:
    """A server that answers with its name when it may; `asked` and `left` say what came to it."""

    name: str
    port: int = 0
    dies: bool = False
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue[bytes])
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await reader.readuntil(b"\r\n\r\n")
        self.asked.put_nowait(await reader.readexactly(5))
        if self.dies:
            writer.transport.abort()
            return
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(reader))
            await self.may_answer.wait()
            watching.cancel()
        body = self.name.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        await reader.read()
        self.left.set()
        self.may_answer.set()


@dataclass(frozen=True)
class Pool:
    """Two replicas, and the balancer before them."""

    one: Replica
    two: Replica
    balancer: Balancer

    async def ask(self) -> httpx2.Response:
        """Send a request through the balancer."""
        async with httpx2.AsyncClient(timeout=20) as http:
            return await http.post(self.balancer.url, content=b"hello")


@asynccontextmanager
async def running(replica: Replica) -> AsyncGenerator[Replica]:
    server = await asyncio.start_server(replica.serve, "127.0.0.1", 0)
    async with server:
        replica.port = server.sockets[0].getsockname()[1]
        yield replica


@pytest.fixture
async def pool() -> AsyncGenerator[Pool]:
    chance = random.Random(1)  # noqa: S311  # chance, and no secrets
    async with (
        running(Replica("one")) as one,
        running(Replica("two")) as two,
        Balancer([one.port, two.port], chance).open() as balancer,
    ):
        yield Pool(one, two, balancer)


def let_answer(pool: Pool) -> None:
    pool.one.may_answer.set()
    pool.two.may_answer.set()


async def test_each_request_goes_to_the_next_replica(pool: Pool) -> None:
    let_answer(pool)
    said = [(await pool.ask()).text for _ in range(4)]
    assert said[:2] == said[2:]
    assert set(said) == {"one", "two"}


async def test_a_replica_that_is_not_there_or_out_is_passed_over(pool: Pool) -> None:
    let_answer(pool)
    pool.balancer.replicas = [free_port(), pool.one.port, pool.two.port]
    pool.balancer.out.add(pool.two.port)
    assert {(await pool.ask()).text for _ in range(3)} == {"one"}
    pool.balancer.out.add(pool.one.port)
    refused = await pool.ask()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


async def test_a_replica_that_dies_is_told_as_502_and_no_other_is_asked(pool: Pool) -> None:
    pool.one.dies = pool.two.dies = True
    assert (await pool.ask()).status_code == 502
    assert pool.one.asked.qsize() + pool.two.asked.qsize() == 1


async def test_a_swallowed_answer_looks_delivered_to_the_replica(pool: Pool) -> None:
    pool.balancer.swallow = 1.0
    let_answer(pool)
    with pytest.raises(httpx2.RemoteProtocolError):
        await pool.ask()
    assert pool.balancer.swallowed == 1
    assert not pool.one.left.is_set()
    assert not pool.two.left.is_set()


async def test_a_repeated_request_is_asked_of_both_and_the_second_answer_is_told(pool: Pool) -> None:
    pool.balancer.repeat = 1.0
    let_answer(pool)
    assert (await pool.ask()).text in {"one", "two"}
    assert [await pool.one.asked.get(), await pool.two.asked.get()] == [b"hello", b"hello"]
    assert pool.balancer.repeated == 1


async def leave(pool: Pool) -> Replica:
    """Send a request, and leave when a replica has it; return the replica."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(pool.ask())
        got = [group.create_task(replica.asked.get()) for replica in (pool.one, pool.two)]
        done, _ = await asyncio.wait(got, return_when=asyncio.FIRST_COMPLETED)
        for task in (asking, *got):
            task.cancel()
    return pool.one if got[0] in done else pool.two


async def test_a_callers_close_is_passed_on(pool: Pool) -> None:
    replica = await leave(pool)
    assert await replica.left.wait()


async def test_a_blind_balancer_passes_no_close_on(pool: Pool) -> None:
    pool.balancer.blind = True
    replica = await leave(pool)
    # What comes later on another connection has been passed on by then.
    other = pool.two if replica is pool.one else pool.one
    other.may_answer.set()
    await pool.ask()
    assert not replica.left.is_set()
    replica.may_answer.set()
