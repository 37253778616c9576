"""Each job runs once per interval over all processes, over a real database, also one that is away."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import asyncpg
import pytest
from typing_extensions import override

from agentapi_mcp.base.errors import StoreError, StoreUnavailableError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.jobs.models import Job, JobClaim, JobState
from agentapi_mcp.core.jobs.ports import JobStore
from agentapi_mcp.core.jobs.runner import JobRunner
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, open_database
from agentapi_mcp.stores.postgres.jobs import PostgresJobs
from tests.conftest import DatabaseUrls
from tests.support.clocks import SteppedClock

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@dataclass
class Work:
    """Work that counts its runs, and does in each what a test has said."""

    name: str = "work"
    runs: int = 0
    do: Callable[[], Awaitable[int]] | None = None

    @property
    def job(self) -> Job:
        """The job of it, once an hour."""
        return Job(name=self.name, summary=f"do the {self.name}", interval=HOUR, run=self._run)

    async def _run(self) -> int:
        self.runs += 1
        return 0 if self.do is None else await self.do()


@dataclass
class Process:
    """A process with a runner, whose time a test moves."""

    runner: JobRunner
    clock: SteppedClock

    async def look(self) -> timedelta:
        """Let it look for jobs that are due, and return how long it waits after that."""
        self.clock.end_wait()
        return await self.clock.next_wait()


@asynccontextmanager
async def process(store: JobStore, *works: Work, owner: UUID | None = None) -> AsyncGenerator[Process]:
    """Start a process, which waits for its first look."""
    clock = SteppedClock()
    async with JobRunner([work.job for work in works], store, clock, owner=owner or new_id()).open() as runner:
        await clock.next_wait()
        yield Process(runner, clock)


def raising(error: Exception) -> Callable[[], Awaitable[int]]:
    """Return work that fails."""

    async def fail() -> int:
        raise error

    return fail


async def age(database: Database, by: timedelta) -> None:
    """Let all runs be longer ago."""
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE agentapi.jobs SET last_started_at = last_started_at - $1::interval, "
            "last_ended_at = last_ended_at - $1::interval, lease_until = lease_until - $1::interval, "
            "created_at = created_at - $1::interval",
            by,
        )


async def state(store: JobStore, work: Work) -> JobState:
    return (await store.states())[work.name]


async def test_of_many_processes_one_runs_a_job_once_an_interval(database: Database) -> None:
    work, other = Work(), Work("other")
    async with AsyncExitStack() as stack:
        starts = [process(PostgresJobs(database), work, other) for _ in range(4)]
        processes = [await stack.enter_async_context(each) for each in starts]
        for runs, later in ((1, timedelta(0)), (1, HOUR - MINUTE), (2, MINUTE), (2, timedelta(0)), (3, 10 * HOUR)):
            await age(database, later)
            async with asyncio.TaskGroup() as group:
                for each in processes:
                    group.create_task(each.look())
            assert (work.runs, other.runs) == (runs, runs)


@dataclass
class Counting(JobStore):
    """A store that counts the statements sent to it."""

    store: JobStore
    statements: list[str] = field(default_factory=list[str])

    @override
    async def due_in(self, jobs: Sequence[Job]) -> Mapping[str, timedelta]:
        self.statements.append("due_in")
        return await self.store.due_in(jobs)

    @override
    async def claim(self, job: Job, owner: UUID, lease: timedelta) -> JobClaim | None:
        self.statements.append("claim")
        return await self.store.claim(job, owner, lease)

    @override
    async def finish(self, claim: JobClaim, error: str | None) -> None:
        self.statements.append("finish")
        await self.store.finish(claim, error)

    @override
    async def release(self, claim: JobClaim) -> None:
        self.statements.append("release")
        await self.store.release(claim)

    @override
    async def states(self) -> Mapping[str, JobState]:
        self.statements.append("states")
        return await self.store.states()


async def test_an_idle_process_asks_the_database_once_in_some_minutes(database: Database) -> None:
    store = Counting(PostgresJobs(database))
    async with process(store, Work()) as one:
        await one.look()
        store.statements.clear()
        waits = [await one.look() for _ in range(3)]
        await age(database, HOUR - timedelta(seconds=1))
        waits.append(await one.look())  # the job is due in a second, which is no reason to hurry
    assert store.statements == ["due_in"] * 4
    assert [5 * MINUTE <= wait < 6 * MINUTE for wait in waits[:3]] == [True] * 3
    assert MINUTE <= waits[3] < 2 * MINUTE


async def test_processes_that_start_at_once_do_not_ask_at_once(database: Database) -> None:
    waits: list[timedelta] = []
    for number in range(3):
        clock = SteppedClock()
        async with JobRunner([], PostgresJobs(database), clock, owner=UUID(int=number * 300)).open():
            waits.append(await clock.next_wait())
    assert all(after - before == timedelta(seconds=1.5) for before, after in pairwise(waits))


async def test_a_failed_job_is_told_and_tried_again_after_its_interval(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store, bad, good = PostgresJobs(database), Work("bad", do=raising(ValueError("sk-secret"))), Work("good")
    async with process(store, bad, good) as one:
        for failures in (1, 2):
            for _ in range(2):
                await one.look()
            assert (bad.runs, good.runs) == (failures, failures)
            failed = await state(store, bad)
            assert (failed.last_error, failed.consecutive_failures) == ("ValueError", failures)
            await age(database, HOUR)
        bad.do = raising(StoreError("The database refused this."))
        await one.look()
        assert (await state(store, bad)).last_error == "The database refused this."
        bad.do = None
        await age(database, HOUR)
        await one.look()
        mended = await state(store, bad)
        assert (mended.last_error, mended.consecutive_failures) == (None, 0)
    said = [record.__dict__["job"] for record in caplog.records if record.message == "job_failed"]
    assert said == ["bad"] * 3


async def test_a_run_that_does_not_end_is_ended_as_a_failure(database: Database) -> None:
    async def wait() -> int:
        await asyncio.Event().wait()
        raise AssertionError

    store, clock, work = PostgresJobs(database), SteppedClock(), Work(do=wait)
    async with JobRunner([work.job], store, clock, owner=new_id(), time_limit=timedelta(0)).open() as runner:
        await clock.next_wait()
        await Process(runner, clock).look()
        failed = await state(store, work)
    assert failed.consecutive_failures == 1
    assert "not done within its time" in (failed.last_error or "")


async def test_a_job_that_finds_the_database_away_has_not_failed_and_runs_when_it_is_back(database: Database) -> None:
    store, work = PostgresJobs(database), Work(do=raising(StoreUnavailableError("It does not answer.")))
    async with process(store, work) as one:
        assert MINUTE <= await one.look() < 2 * MINUTE
        assert (await state(store, work)).consecutive_failures == 0
        work.do = None
        await one.look()
        await one.look()
        assert work.runs == 2
        assert (await state(store, work)).last_error is None


@dataclass
class Away:
    """A server that nobody reaches until it is back."""

    address: str
    is_back: bool = True

    async def url(self) -> str:
        """Tell where it is."""
        if not self.is_back:
            raise ConnectionRefusedError
        return self.address

    async def recover(self) -> str:
        """Tell where it is."""
        return await self.url()

    async def lose(self, database: Database) -> None:
        """End the connection of a pool, and let no other be made."""
        async with database.as_system("the connection that is lost") as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
        other = await asyncpg.connect(self.address)
        await other.execute("SELECT pg_terminate_backend($1)", pid)
        await other.close()
        self.is_back = False


async def test_the_end_of_a_run_is_written_when_the_database_is_back(
    database: Database, database_urls: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    server = Away(database_urls.app)
    async with open_database(server, PoolOptions(max_size=1)) as lost:

        async def lose() -> int:
            await server.lose(lost)
            return 1

        work = Work(do=lose)
        async with process(PostgresJobs(lost), work) as one:
            for _ in range(3):
                assert await one.look() == timedelta(seconds=30)
            assert (await state(PostgresJobs(database), work)).idle_for < MINUTE
            server.is_back = True
            await one.look()
            work.do = None
            await one.look()
            assert work.runs == 1
            await server.lose(lost)
            for _ in range(3):
                assert MINUTE <= await one.look() < 2 * MINUTE
            server.is_back = True
            await age(database, HOUR)
            await one.look()
            assert work.runs == 2
            await server.lose(lost)
            for _ in range(2):
                await one.look()
        assert (await state(PostgresJobs(database), work)).consecutive_failures == 0
    # Once for each outage that a look met.
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == ["jobs_wait"] * 2


async def test_the_job_of_a_process_that_died_is_run_by_another_once_its_lease_is_over(database: Database) -> None:
    store, work = PostgresJobs(database), Work()
    assert await store.claim(work.job, new_id(), 15 * MINUTE) is not None
    async with process(store, work) as one:
        await one.look()
        assert work.runs == 0
        await age(database, 15 * MINUTE)
        await one.look()
        assert work.runs == 1
        assert (await state(store, work)).consecutive_failures == 0


async def test_a_process_that_stops_leaves_its_running_job_to_another_at_once(database: Database) -> None:
    begun = asyncio.Event()

    async def wait() -> int:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    store, work = PostgresJobs(database), Work(do=wait)
    async with process(store, work) as one:
        one.clock.end_wait()
        await begun.wait()
    work.do = None
    async with process(store, work) as another:
        await another.look()
    assert work.runs == 2
    assert (await state(store, work)).consecutive_failures == 0


async def test_health_names_the_jobs_whose_last_run_failed_without_their_errors(database: Database) -> None:
    store, work = PostgresJobs(database), Work(do=raising(ValueError("sk-secret")))
    async with process(store, work, Work("other")) as one:
        await one.look()
        assert await one.runner.remark() == "the job work (do the work) failed; the server's log has the details"
        await age(database, HOUR)
        await one.look()
        assert "the job work (do the work) failed 2 times in a row" in (await one.runner.remark() or "")
        work.do = None
        await age(database, HOUR)
        await one.look()
        assert await one.runner.remark() is None


async def test_health_names_the_jobs_that_have_not_run_for_three_intervals(database: Database) -> None:
    store, work, other = PostgresJobs(database), Work(), Work("other")
    async with process(store, work) as one:
        await one.look()
        await age(database, 3 * HOUR - MINUTE)
        one.clock.advance(HOUR)
        assert await one.runner.remark() is None
        await age(database, MINUTE)
        assert "the job work (do the work) has not run for 3 h" in (await one.runner.remark() or "")
    async with process(store, work, other) as young:
        young.clock.advance(9 * MINUTE)
        assert await young.runner.remark() is None  # the time before it started may have had no process
        young.clock.advance(MINUTE)
        assert await young.runner.remark() == (
            "the job work (do the work) has not run for 3 h; the job other (do the other) has never run; "
            "the server's log has the details"
        )
        await young.look()
        assert await young.runner.remark() is None
