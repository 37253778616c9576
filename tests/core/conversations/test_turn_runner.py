"""How turns are begun, stopped and ended by the process that runs them, and what it does while the store refuses."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import override

from agentapi_mcp.app import build
from agentapi_mcp.backends.kinds.openai import OpenAIBackend
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import AgentApiError, LimitExceededError, NotFoundError, StoreUnclearError
from agentapi_mcp.base.ids import OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.backends.events import BackendEvent, Finished, TextDelta
from agentapi_mcp.core.conversations.models import EndReason, History, SessionState, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.turn_runner import EVENTS_AT_ONCE
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.services import Services
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.local.session_caches import LocalSessionCache
from tests.core.conversations.test_never_lost import locked_sessions, somebody_waits
from tests.support.signals import listening
from tests.support.wires import Break
from tests.support.worlds import LONG, NOW, SHORT_LEASE, SLOW, World, asks, begun

DOCS = Path(__file__).parents[3] / "docs" / "design" / "turns.md"
PROVIDER = "/api/v1/chat/completions"
# The times that only who writes an end waits; 2 s, which others wait too, is left out.
PAUSES = {0.5, 1, 4, 8, 16, 30}


@dataclass
class HastyClock(SystemClock):
    """Time in which nobody sleeps for longer than a moment, and which knows for how long they meant to.

    What is left of somebody's time, which is never a whole number of half seconds, passes as ever, if it is not `all`.
    """

    all: bool = False
    waits: list[float] = field(default_factory=list[float])

    @override
    async def sleep(self, duration: timedelta) -> None:
        self.waits.append(duration.total_seconds())
        is_left = duration % timedelta(seconds=0.5)
        await super().sleep(duration if is_left and not self.all else min(duration, timedelta(milliseconds=10)))

    @property
    def pauses(self) -> list[float]:
        """How long was waited before an end was written again."""
        return [wait for wait in self.waits if wait in PAUSES]


UNUSUAL = timedelta(seconds=7)


def test_the_times_of_the_engine_are_those_of_its_documentation() -> None:
    options, text = TurnRunnerOptions(), " ".join(DOCS.read_text(encoding="utf-8").split())

    def seconds(duration: timedelta) -> str:
        return f"{duration.total_seconds():g} s"

    for words in (
        f"leases of its turns ({seconds(options.lease)}) every {seconds(options.renew_every)},",
        f"is written at most every {seconds(options.save_every)},",
        f"Stop: {seconds(options.stopped_grace)},",
        f"such as a closed response stream: {seconds(options.abandon_grace)}.",
        f"until the grace is over, and {seconds(options.settle_within)} longer.",
        f"an answer has waited for {seconds(options.refuse_when_behind)} to be written.",
    ):
        assert words in text


def test_the_limits_of_the_engine_are_those_of_a_program_with_twenty_connections() -> None:
    # What a program is opened with.
    chosen = build._run_options(Settings(pool_size=20))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # as above
    assert chosen == TurnRunnerOptions()


# --- who may ask


async def test_a_turn_that_runs_here_is_nobody_elses(world: World) -> None:
    server = await world.program()
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path=PROVIDER)
        turn = (await server.turns.recent(server.principal, 1))[0]
        strangers = (
            replace(server.principal, user_id=UserId(new_id())),
            replace(server.principal, org_id=OrgId(new_id())),
        )
        for stranger in strangers:
            with pytest.raises(NotFoundError):
                await server.turns.get(stranger, str(turn.id))
            with pytest.raises(NotFoundError):
                await server.turns.cancel(stranger, str(turn.id))
        world.steps.release(20)
        assert (await asking).status is TurnStatus.COMPLETED


async def test_one_turn_more_than_may_run_is_refused_until_one_has_ended(world: World) -> None:
    server = await world.program(capacities={Resource.RUNNING_TURNS: 1})
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path=PROVIDER)
        with pytest.raises(LimitExceededError, match="as many running turns as it may") as raised:
            await server.turns.chat(server.principal, asks(), wait=LONG)
        assert raised.value.retry_after == timedelta(seconds=5)
        world.steps.release(20)
        await asking
    assert (await server.turns.chat(server.principal, asks(), wait=LONG)).status is TurnStatus.COMPLETED


async def test_who_starts_a_turn_is_told_that_it_runs_and_who_starts_it_again_the_same(world: World) -> None:
    server = await world.program()
    request = asks(SLOW, idempotency_key="k")
    started = await server.turns.start(server.principal, request)
    assert (started.status, started.joined) == (TurnStatus.RUNNING, False)
    assert (await server.turns.start(server.principal, request)).id == started.id
    world.steps.release(20)
    told = await server.turns.get(server.principal, str(started.id), wait=LONG)
    assert told.status is TurnStatus.COMPLETED
    assert (await server.turns.start(server.principal, request)).reply == told.reply


# --- how it is stopped


async def test_a_cancelled_turn_keeps_its_text_and_leaves_the_provider(world: World) -> None:
    server = await world.program()
    async with begun(server, asks("[[slow]] [[chunks9]]")) as asking:
        exchange = await world.peer.received(path=PROVIDER)
        turn = (await server.turns.recent(server.principal, 1))[0]
        world.steps.release(3)
        async for event in server.turns.follow(server.principal, turn):
            if type(event).__name__ == "TextDelta":
                break
        cancelled = await server.turns.cancel(server.principal, str(turn.id))
        assert (cancelled.status, cancelled.end_reason) == (TurnStatus.CANCELLED, EndReason.CANCEL_TURN)
        assert cancelled.reply
        assert await asking == cancelled
        await exchange.gone.wait()
    await world.stack.aclose()  # the events of an ended program are stored
    actions = await world.owner.fetch("SELECT action FROM agentapi.audit_events WHERE target_kind = 'turn'")
    assert sorted(row["action"] for row in actions) == ["turn_accepted", "turn_cancelled", "turn_ended"]


async def test_a_request_to_cancel_whose_signal_is_lost_is_seen_in_the_row(world: World) -> None:
    server = await world.program()
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path=PROVIDER)
        await world.owner.execute("UPDATE agentapi.turns SET cancel_requested_at = clock_timestamp()")
        told = await asking
    assert (told.status, told.end_reason) == (TurnStatus.CANCELLED, EndReason.CANCEL_TURN)
    assert told.cancel_requested_at is not None


async def begin_to_drain(server: Services, group: asyncio.TaskGroup) -> asyncio.Task[None]:
    """Let a program begin to end."""
    draining = group.create_task(server.turns.drain())
    await asyncio.sleep(0)  # noqa: TID251  # lets it begin, and waits for no time
    return draining


async def test_a_turn_that_ends_within_the_shutdown_grace_is_not_interrupted(world: World) -> None:
    server = await world.program(shutdown_grace=timedelta(minutes=5))
    async with begun(server, asks(SLOW)) as asking, asyncio.TaskGroup() as group:
        await world.peer.received(path=PROVIDER)
        draining = await begin_to_drain(server, group)
        with pytest.raises(LimitExceededError, match="shutting down") as raised:
            await server.turns.chat(server.principal, asks(), wait=LONG)
        assert raised.value.retry_after == timedelta(seconds=5)
        world.steps.release(20)
        await draining
        assert (await asking).status is TurnStatus.COMPLETED


async def test_an_operator_who_asks_twice_need_not_wait_for_the_grace(world: World) -> None:
    server = await world.program(shutdown_grace=timedelta(minutes=5))
    async with begun(server, asks(SLOW)) as asking, asyncio.TaskGroup() as group:
        await world.peer.received(path=PROVIDER)
        draining = await begin_to_drain(server, group)
        server.turns.stop_now()
        await draining
        told = await asking
    assert (told.status, told.end_reason) == (TurnStatus.INTERRUPTED, EndReason.SHUTDOWN)
    assert await world.owner.fetchval("SELECT end_reason FROM agentapi.turns") == "shutdown"


async def test_an_operator_who_asks_twice_need_not_wait_for_a_store_that_is_away(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url, shutdown_grace=timedelta(minutes=5), settle_within=NOW)
    async with begun(server, asks(SLOW)) as asking, asyncio.TaskGroup() as group:
        await world.peer.received(path=PROVIDER)
        wire.go_down()
        draining = await begin_to_drain(server, group)
        server.turns.stop_now()
        await draining
        wire.come_up()
        assert (await asking).end_reason is EndReason.SHUTDOWN


async def test_a_store_that_is_away_has_what_is_left_of_the_grace_and_some_time_more(world: World) -> None:
    wire, url = await world.wire()
    clock, hour = HastyClock(all=True), timedelta(hours=1)
    server = await world.program(url, clock=clock, shutdown_grace=hour, settle_within=hour)
    async with begun(server, asks(SLOW)):
        await world.peer.received(path=PROVIDER)
        wire.go_down()
        await server.turns.drain()
        assert hour < timedelta(seconds=max(clock.waits)) <= 2 * hour
        wire.come_up()
        await world.until("end_reason = $1", EndReason.SHUTDOWN)


async def test_a_turn_is_accepted_after_the_grace_only_to_be_interrupted_unasked(world: World) -> None:
    server = await world.program(shutdown_grace=timedelta(0))
    first = await world.answered(server, asks())
    async with asyncio.TaskGroup() as group:
        async with locked_sessions(world):
            again = asks(session_id=str(first.session_id))
            asking = group.create_task(server.turns.chat(server.principal, again, wait=LONG))
            await somebody_waits(world)
            draining = await begin_to_drain(server, group)
            await until_interrupting(server)
        await draining
        told = await asking
    assert (told.status, told.end_reason, told.asked_at) == (TurnStatus.INTERRUPTED, EndReason.SHUTDOWN, None)
    assert len(world.peer.exchanges) == 1


async def until_interrupting(server: Services) -> None:
    """Wait for longer than a grace of nothing."""
    for _ in range(20):
        with pytest.raises(LimitExceededError):
            await server.turns.chat(server.principal, asks(), wait=LONG)
        await asyncio.sleep(0)  # noqa: TID251  # lets others go on, and waits for no time


async def test_a_caller_whose_message_is_being_accepted_hears_of_the_programs_end(world: World) -> None:
    first_server = await world.program()
    first = await world.answered(first_server, asks())
    async with AsyncExitStack() as alone:
        server = await replace(world, stack=alone).program(shutdown_grace=timedelta(0), settle_within=timedelta(0))
        asking = asyncio.ensure_future(
            server.turns.chat(server.principal, asks(session_id=str(first.session_id)), wait=LONG)
        )
        async with locked_sessions(world):
            await somebody_waits(world)
            await alone.aclose()
            await asyncio.wait({asking})
    assert asking.cancelled() or isinstance(asking.exception(), AgentApiError) or asking.result().status.is_final
    await world.until("true AND (SELECT count(*) FROM agentapi.turns WHERE status = 'running') = 0")


# --- how it ends


async def test_an_end_that_the_database_refuses_for_a_while_is_written_in_the_end(world: World) -> None:
    clock = HastyClock()
    server = await world.program(clock=clock, save_every=UNUSUAL, renew_every=UNUSUAL, renew_again=UNUSUAL)
    async with refusing_ends(world, times=9):
        turn = await server.turns.chat(server.principal, asks(), wait=LONG)
        await world.until("status = 'completed'")
    told = await server.turns.get(server.principal, str(turn.id))
    assert (told.status, told.saved, bool(told.reply)) == (TurnStatus.COMPLETED, True, True)
    assert clock.pauses == [0.5, 1, 4, 8, 16, 30, 30, 30]


async def test_an_end_that_the_database_refuses_for_good_is_settled_and_keeps_no_other_from_its_own(
    world: World,
) -> None:
    clock = HastyClock()
    server = await world.program(
        clock=clock, lease=SHORT_LEASE, save_every=UNUSUAL, renew_every=UNUSUAL, renew_again=UNUSUAL
    )
    async with begun(server, asks(SLOW)) as other:
        await world.peer.received(path=PROVIDER)
        async with refusing_ends(world, times=10):
            turn = await server.turns.start(server.principal, asks())
            await world.until("id = $1 AND status = 'interrupted' AND end_reason = 'lease_expired'", turn.id)
        assert clock.pauses == [0.5, 1, 4, 8, 16, 30, 30, 30]
        world.steps.release(20)
        kept = await other
    await world.until("id = $1 AND status = 'completed'", kept.id)


async def test_an_answer_that_cannot_be_written_is_told_after_three_seconds_at_most(world: World) -> None:
    wire, url = await world.wire()
    clock = HastyClock()
    server = await world.program(
        url, clock=clock, save_every=UNUSUAL, renew_every=UNUSUAL, renew_again=UNUSUAL, save_again=UNUSUAL
    )
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path=PROVIDER)
        wire.go_down()
        world.steps.release(20)
        told = await asking
        assert (told.status, told.saved) == (TurnStatus.COMPLETED, False)
        assert 3 in clock.waits
        clock.waits.clear()
        assert await server.turns.get(server.principal, str(told.id), wait=NOW) == told
        assert 3 not in clock.waits  # who has no time left is told at once
        wire.come_up()
    await world.until("status = 'completed'")


async def test_a_database_that_does_not_let_a_provider_be_asked_is_asked_ever_less_often(world: World) -> None:
    wire, url = await world.wire()
    clock = HastyClock()
    server = await world.program(url, clock=clock, save_every=UNUSUAL, renew_every=UNUSUAL, renew_again=UNUSUAL)
    wire.break_at("begin_turn_2", Break.BEFORE)
    async with begun(server, asks(SLOW, idempotency_key="k")) as asking:
        await wire.has_broken.wait()
        wire.break_at("SET asked_at", Break.BEFORE, times=5)
        await world.peer.received(path=PROVIDER)
        assert (wire.broken, clock.pauses) == (6, [0.5, 1, 4])
        world.steps.release(20)
        assert (await asking).status is TurnStatus.COMPLETED


async def test_a_database_that_answers_others_and_not_this_is_asked_ever_less_often(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    wire, url = await world.wire()
    clock = HastyClock()
    server = await world.program(url, clock=clock, save_every=UNUSUAL, renew_every=UNUSUAL, renew_again=UNUSUAL)
    async with begun(server, asks(SLOW)) as asking:
        await world.peer.received(path=PROVIDER)
        wire.break_at("end_turn_2", Break.BEFORE, times=5)
        world.steps.release(20)
        told = await asking
        await world.until("status = 'completed'")
    assert wire.broken == 5
    assert clock.pauses == [0.5, 1, 4]
    assert "finish_delayed" in caplog.messages
    assert (await server.turns.get(server.principal, str(told.id))).reply == "w0 w1 "


OBSERVED = """
CREATE TABLE public.observed (failures integer);
CREATE FUNCTION public.observe() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
$$ BEGIN INSERT INTO public.observed VALUES (NEW.consecutive_failures); RETURN NEW; END $$;
CREATE TRIGGER observe AFTER INSERT OR UPDATE ON public.agent_health FOR EACH ROW EXECUTE FUNCTION public.observe()
"""


async def test_a_defect_of_the_program_is_logged_and_says_nothing_of_the_health_of_the_agent(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crashing(_backend: object, _turn: object) -> AsyncGenerator[None]:
        raise RuntimeError("a defect")
        yield

    server = await world.program()
    await world.owner.execute(OBSERVED)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(OpenAIBackend, "run", crashing)
            failed = await world.answered(server, asks())
        assert (failed.status, failed.end_reason) == (TurnStatus.FAILED, EndReason.INTERNAL)
        assert "turn_crashed" in caplog.messages
        # Its failure is what counts, and would be the second one.
        assert (await world.answered(server, asks("[[e401]]"))).end_reason is EndReason.FAULT
        async with asyncio.timeout(25):
            while not (failures := await world.owner.fetch("SELECT failures FROM public.observed")):
                pass
        assert [row["failures"] for row in failures] == [1]
        assert caplog.messages.count("turn_crashed") == 1
    finally:
        await world.owner.execute("DROP FUNCTION public.observe CASCADE; DROP TABLE public.observed")


async def test_an_error_after_an_end_is_stored_ends_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenCache(LocalSessionCache):
        @override
        async def save(self, session_id: SessionId, state: SessionState, history: History | None) -> None:
            raise RuntimeError("broken")

    monkeypatch.setattr(build, "LocalSessionCache", BrokenCache)
    server = await world.program()
    async with begun(server, asks(SLOW)) as other:
        await world.peer.received(path=PROVIDER)
        told = await server.turns.chat(server.principal, asks(), wait=LONG)
        assert (told.status, told.saved) == (TurnStatus.COMPLETED, True)
        world.steps.release(20)
        assert (await other).status is TurnStatus.COMPLETED
    assert await world.owner.fetchval("SELECT count(*) FROM agentapi.turns WHERE status = 'completed'") == 2
    logged = [record.exc_info for record in caplog.records if record.message == "turn_not_observed"]
    assert logged
    assert all(logged)  # with where it was raised


REFUSING = """
CREATE SEQUENCE public.refused;
GRANT USAGE ON SEQUENCE public.refused TO PUBLIC;
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF nextval('public.refused') <= {times} THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON agentapi.turns FOR EACH ROW WHEN (NEW.status = 'completed')
EXECUTE FUNCTION public.refuse()
"""


@asynccontextmanager
async def refusing_ends(world: World, *, times: int) -> AsyncGenerator[None]:
    """Let the database refuse to store that a turn has completed, so many times."""
    await world.owner.execute(REFUSING.format(times=times))
    try:
        yield
    finally:
        await world.owner.execute("DROP FUNCTION public.refuse CASCADE; DROP SEQUENCE public.refused")


# --- a beginning that nobody knows of


async def test_a_message_that_is_asked_anew_after_its_call_was_lost_leaves_no_turn_running(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    request = asks()
    wire.break_at("begin_turn_2", Break.SILENT)
    with pytest.raises(StoreUnclearError):
        await server.turns.chat(server.principal, request, wait=NOW)
    told = await server.turns.chat(server.principal, replace(request, new=True), wait=LONG)
    assert (told.status, told.joined) == (TurnStatus.COMPLETED, False)
    await world.until("(SELECT count(*) FROM agentapi.turns WHERE ended_at IS NOT NULL) = 2")


# --- what others hear


async def test_others_hear_of_a_new_session_and_of_each_turn_that_begins_and_ends(world: World) -> None:
    server = await world.program()
    heard: asyncio.Queue[Signal] = asyncio.Queue()
    async with listening(world.urls.app) as signals:
        signals.subscribe(heard.put_nowait)
        first = await world.answered(server, asks())
        second = await world.answered(server, asks(session_id=str(first.session_id)))
        told = [await heard.get() for _ in range(4)]
    assert [(each.kind, each.turn_id) for each in told] == [
        (SignalKind.SESSIONS_CHANGED, first.id),
        (SignalKind.ENDED, first.id),
        (SignalKind.SESSION_CHANGED, second.id),
        (SignalKind.ENDED, second.id),
    ]
    whose = {(each.session_id, each.user_id, each.org_id) for each in told}
    assert whose == {(first.session_id, server.principal.user_id, server.principal.org_id)}


async def test_a_turn_that_says_nothing_keeps_no_others_text_from_being_stored(world: World) -> None:
    server = await world.program(save_every=timedelta(milliseconds=10))
    async with begun(server, asks("[[hang]]")) as quiet:
        await world.peer.received(path=PROVIDER)
        async with begun(server, asks(SLOW)) as talking:
            await world.peer.received(2, path=PROVIDER)
            world.steps.release(1)
            await world.until("partial_text <> '' AND status = 'running'")
            world.steps.release(20)
            assert (await talking).status is TurnStatus.COMPLETED
        quiet.cancel()


async def test_an_outage_is_logged_once_however_long_it_takes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    wire.go_down()
    async with asyncio.timeout(25):
        while wire.refused < 30:
            await world.turns()
    wire.come_up()
    await world.answered(server, asks())
    assert caplog.messages.count("leases_not_renewed") == 1


async def test_the_text_so_far_is_stored_while_a_turn_runs(world: World) -> None:
    server = await world.program(save_every=timedelta(seconds=0.01))
    async with begun(server, asks("[[slow]] [[chunks2]]")) as asking:
        await world.peer.received(path=PROVIDER)
        world.steps.release(1)
        await world.until("partial_text <> '' AND status = 'running'")
        world.steps.release(20)
        assert (await asking).status is TurnStatus.COMPLETED


async def test_an_agent_that_floods_leaves_turns_of_the_loop_to_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, loop_turns, seen = 20_000, 0, list[int]()
    is_over = asyncio.Event()

    async def flood(_backend: object, _turn: object) -> AsyncGenerator[BackendEvent]:
        for _ in range(pieces):
            seen.append(loop_turns)
            yield TextDelta("x")
        is_over.set()
        yield Finished()

    async def work_beside() -> None:
        nonlocal loop_turns
        while not is_over.is_set():
            loop_turns += 1
            await checkpoint()

    monkeypatch.setattr(OpenAIBackend, "run", flood)
    server = await world.program()
    async with asyncio.TaskGroup() as group:
        group.create_task(work_beside())
        answer = await world.answered(server, asks())
    assert (answer.status, len(answer.reply)) == (TurnStatus.COMPLETED, pieces)
    assert max(Counter(seen).values()) == EVENTS_AT_ONCE
    assert len(set(seen)) == pieces / EVENTS_AT_ONCE


async def test_one_message_at_a_time_waits_for_the_row_of_a_session(world: World) -> None:
    server = await world.program()
    first = await world.answered(server, asks())
    waiting = list[int]()
    async with asyncio.TaskGroup() as group, locked_sessions(world):
        for _ in range(4):
            group.create_task(tried(server, asks(session_id=str(first.session_id))))
        await somebody_waits(world)
        for _ in range(50):
            waiting.append(await world.owner.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    assert max(waiting) == 1


async def tried(server: Services, request: ChatRequest) -> None:
    """Send a message that may be refused, since the session answers another one."""
    with suppress(AgentApiError):
        await server.turns.start(server.principal, request)
