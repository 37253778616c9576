"""The contract of every backend, run over each registered kind beside its agent (tests/support/peers/<kind>.py)."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.core.errors import BackendError, BackendFault
from agentapi_mcp.core.events import BackendEvent, Finished, TextDelta
from agentapi_mcp.core.records.health import HealthStatus
from tests.support.hosts import FakeHost
from tests.support.peers.cases import Behaviour, Patience, Rig, case_of, has_case
from tests.support.waiting import expect_soon

KINDS = registry.builtin_names()
VARIANTS = [(kind, variant) for kind in KINDS if has_case(kind) for variant in case_of(kind).variants]
EACH = pytest.mark.parametrize(("kind", "variant"), VARIANTS)
LONG = timedelta(seconds=8)
ASKED = timedelta(seconds=1)  # on a busy machine, too, the agent has been asked by then
TIMEOUTS = {BackendFault.TIMEOUT_IDLE, BackendFault.TIMEOUT_TOTAL}

FAULTS = {
    Behaviour.BAD_REQUEST: BackendFault.BAD_REQUEST,
    Behaviour.UNAUTHORIZED: BackendFault.AUTH,
    Behaviour.NO_CREDIT: BackendFault.PAYMENT,
    Behaviour.FORBIDDEN: BackendFault.PERMISSION,
    Behaviour.UNKNOWN_MODEL: BackendFault.NOT_FOUND,
    Behaviour.BUSY: BackendFault.RATE_LIMIT,
    Behaviour.BROKEN: BackendFault.UPSTREAM,
    Behaviour.BAD_GATEWAY: BackendFault.UPSTREAM,
    Behaviour.UNAVAILABLE: BackendFault.OVERLOADED,
    Behaviour.OVERLOADED: BackendFault.OVERLOADED,
    Behaviour.TOO_LONG: BackendFault.CONTEXT_LENGTH,
    Behaviour.MODERATED: BackendFault.CONTENT_POLICY,
    Behaviour.DROPPED: BackendFault.CONNECTION,
    Behaviour.CUT: BackendFault.STREAM_CUT,
    Behaviour.NONSENSE: BackendFault.BAD_REPLY,
    Behaviour.EMPTY: BackendFault.BAD_REPLY,
    Behaviour.FAILS_LATE: BackendFault.UPSTREAM,
    Behaviour.LEAKS: BackendFault.AUTH,
}


def need(kind: str, *behaviours: Behaviour) -> None:
    for behaviour in behaviours:
        if reason := case_of(kind).not_applicable.get(behaviour):
            pytest.skip(reason)


def need_outside(kind: str) -> None:
    if reason := case_of(kind).unreachable:
        pytest.skip(reason)


async def events_of(rig: Rig, behaviour: Behaviour) -> list[BackendEvent]:
    return [event async for event in rig.backend.run(rig.turn(behaviour))]


async def failure_of(rig: Rig, behaviour: Behaviour) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await events_of(rig, behaviour)
    return caught.value


def _without_handles(events: list[BackendEvent]) -> list[BackendEvent]:
    return [replace(event, state={}) if isinstance(event, Finished) else event for event in events]


def closing(rig: Rig, behaviour: Behaviour) -> aclosing[AsyncGenerator[BackendEvent]]:
    # The port promises an iterator that can be closed; that closing stops the agent is what is tested.
    return aclosing(rig.backend.run(rig.turn(behaviour)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_part_in_the_contract(kind: str) -> None:
    assert has_case(kind), f"write tests/support/peers/{kind}.py with a CASE"
    assert case_of(kind).variants


@EACH
async def test_an_answer_is_text_and_exactly_one_end(kind: str, variant: str) -> None:
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        events = await events_of(rig, Behaviour.ANSWERS)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)).strip()
    assert [place for place, event in enumerate(events) if isinstance(event, Finished)] == [len(events) - 1]


@EACH
async def test_two_turns_at_once_do_not_mix(kind: str, variant: str) -> None:
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        alone = await events_of(rig, Behaviour.ANSWERS)
        async with asyncio.TaskGroup() as tasks:
            both = [tasks.create_task(events_of(rig, Behaviour.ANSWERS)) for _ in range(2)]
    assert [_without_handles(task.result()) for task in both] == [_without_handles(alone)] * 2


@EACH
@pytest.mark.parametrize("behaviour", list(FAULTS))
async def test_a_failure_is_told_as_its_fault(kind: str, variant: str, behaviour: Behaviour) -> None:
    need(kind, behaviour)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        error = await failure_of(rig, behaviour)
    assert error.fault is FAULTS[behaviour]
    assert 0 < len(str(error)) < 400


@EACH
async def test_a_busy_agent_says_when_to_come_back(kind: str, variant: str) -> None:
    need(kind, Behaviour.BUSY)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        error = await failure_of(rig, Behaviour.BUSY)
    assert error.may_retry
    assert error.retry_after
    assert error.retry_after > timedelta(0)


@EACH
async def test_an_agent_that_is_not_there_refuses_the_connection(kind: str, variant: str) -> None:
    need_outside(kind)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        await rig.stop()
        error = await failure_of(rig, Behaviour.ANSWERS)
    assert error.fault is BackendFault.CONNECTION


@EACH
async def test_a_silent_agent_is_given_up_and_freed(kind: str, variant: str) -> None:
    need(kind, Behaviour.HANGS)
    patience = Patience(idle=ASKED, total=ASKED * 1.5)
    async with FakeHost() as host, case_of(kind).open(variant, host, patience) as rig:
        error = await failure_of(rig, Behaviour.HANGS)
        await rig.freed()
    assert error.fault in TIMEOUTS


@EACH
async def test_an_agent_that_falls_silent_is_given_up_and_freed(kind: str, variant: str) -> None:
    need(kind, Behaviour.WAITS)
    patience = Patience(idle=ASKED, total=ASKED * 1.5)
    async with FakeHost() as host, case_of(kind).open(variant, host, patience) as rig:
        error = await failure_of(rig, Behaviour.WAITS)
        await rig.freed()
    assert error.fault in TIMEOUTS


@EACH
async def test_an_agent_without_end_is_given_up_and_freed(kind: str, variant: str) -> None:
    need(kind, Behaviour.DRIPS)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience(idle=LONG, total=ASKED)) as rig:
        error = await failure_of(rig, Behaviour.DRIPS)
        await rig.freed()
    assert error.fault is BackendFault.TIMEOUT_TOTAL


@EACH
async def test_cancelling_the_task_frees_the_agent(kind: str, variant: str) -> None:
    need(kind, Behaviour.HANGS)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(events_of(rig, Behaviour.HANGS))
            await rig.asked()
            running.cancel()
            await rig.freed()
        assert running.cancelled()
        assert isinstance((await events_of(rig, Behaviour.ANSWERS))[-1], Finished)


@EACH
async def test_cancelling_the_task_in_mid_answer_frees_the_agent(kind: str, variant: str) -> None:
    need(kind, Behaviour.WAITS)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(events_of(rig, Behaviour.WAITS))
            await rig.asked()
            running.cancel()
            await rig.freed()
        assert running.cancelled()


@EACH
async def test_closing_the_iterator_frees_the_agent(kind: str, variant: str) -> None:
    need(kind, Behaviour.WAITS)
    if not case_of(kind).in_pieces(variant):
        pytest.skip("the answer comes whole: there is no moment within it")
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        async with closing(rig, Behaviour.WAITS) as events:
            while not isinstance(await anext(events), TextDelta):
                pass
        await expect_soon(rig.freed(), "the agent sees that nobody waits for it")


@EACH
async def test_no_secret_and_no_prompt_is_seen(kind: str, variant: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    case = case_of(kind)
    seen: list[str] = []
    async with FakeHost() as host, case.open(variant, host, Patience()) as rig:
        for behaviour in {Behaviour.ANSWERS, *FAULTS} - case.not_applicable.keys():
            try:
                seen += [repr(event) for event in await events_of(rig, behaviour)]
            except BackendError as error:
                seen += [str(error), repr(error)]
        seen += [repr(await rig.backend.check()), repr(rig.backend)]
        prompt = rig.turn(Behaviour.ANSWERS).message
    logged = [record.getMessage() for record in caplog.records]
    for secret in case.secrets:
        assert not [line for line in (*seen, *logged) if secret in line]
    assert not [line for line in logged if prompt in line]
    assert not [line for line in seen if "/srv/" in line or "Traceback" in line]


@EACH
async def test_a_check_tells_how_the_agent_is(kind: str, variant: str) -> None:
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        assert (await rig.backend.check()).status is HealthStatus.HEALTHY


@EACH
async def test_a_check_of_an_agent_that_is_not_there_is_unhealthy(kind: str, variant: str) -> None:
    need_outside(kind)
    async with FakeHost() as host, case_of(kind).open(variant, host, Patience()) as rig:
        await rig.stop()
        check = await rig.backend.check()
    assert check.status is HealthStatus.UNHEALTHY
    assert check.error
