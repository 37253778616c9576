"""How turns end is stored, or not told as if it were."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta

import pytest

from agentapi_mcp.backends.kinds.openai import OpenAIBackend
from agentapi_mcp.base.errors import LimitExceededError, NotFoundError, StoreError
from agentapi_mcp.core.conversations.models import EndReason, TurnStatus
from tests.support.worlds import LONG, NOW, SHORT_LEASE, SLOW, World, asks

REFUSES = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a defect of the schema' USING ERRCODE = 'check_violation'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE OF status ON agentapi.turns FOR EACH ROW
EXECUTE FUNCTION public.refuse()
"""
ACCEPTS = "DROP FUNCTION public.refuse CASCADE"


async def test_an_answer_that_the_store_refuses_is_never_told_as_one_and_keeps_nobody_waiting(world: World) -> None:
    server = await world.program(save_again=timedelta(hours=1), refuse_when_behind=NOW)
    await world.owner.execute(REFUSES)
    try:
        running = await server.turns.chat(server.principal, asks(), wait=timedelta(milliseconds=1))
        assert running.status is TurnStatus.RUNNING
        await world.peer.received(1)
        # It has ended by now, or soon; whatever is told of it, it is no answer that is not stored.
        assert (await server.turns.get(server.principal, str(running.id), wait=NOW)).status is TurnStatus.RUNNING
    finally:
        await world.owner.execute(ACCEPTS)
    async with asyncio.timeout(25):
        answer = None
        while answer is None:
            # Until the first refusal it is an answer that waits, as all do.
            with suppress(LimitExceededError):
                answer = await world.answered(server, asks())
            await world.turns()
    assert answer.status is TurnStatus.COMPLETED


async def test_an_answer_that_the_store_refuses_to_the_end_is_an_error_and_then_interrupted(world: World) -> None:
    server = await world.program(save_again=NOW, lease=SHORT_LEASE)
    await world.owner.execute(REFUSES)
    try:
        with pytest.raises(StoreError, match="could not be stored"):
            await server.turns.chat(server.principal, asks(), wait=LONG)
    finally:
        await world.owner.execute(ACCEPTS)
    await world.until("status = 'interrupted'")


async def test_the_caller_of_a_turn_whose_session_another_program_deletes_is_told_that(world: World) -> None:
    server = await world.program()
    first = await world.answered(server, asks())
    asked = asks(SLOW, session_id=str(first.session_id))
    asking = asyncio.ensure_future(server.turns.chat(server.principal, asked, wait=LONG))
    await world.peer.received(2)
    await world.owner.execute("DELETE FROM public.chat_sessions WHERE id = $1", first.session_id)
    world.steps.release(20)
    with pytest.raises(NotFoundError, match="was deleted before"):
        await asking


@pytest.mark.parametrize("error", [asyncio.CancelledError, TimeoutError])
async def test_a_backend_that_is_cancelled_by_something_else_fails_its_turn_alone(
    error: type[BaseException], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await world.program()
    running = await server.turns.chat(server.principal, asks(SLOW), wait=NOW)
    await world.peer.received(1)

    async def cancelled(_backend: object, _turn: object) -> AsyncGenerator[None]:
        raise error  # as a task does that waits for one that was cancelled, or for longer than it wants to
        yield

    with monkeypatch.context() as patched:
        patched.setattr(OpenAIBackend, "run", cancelled)
        failed = await world.answered(server, asks())
    assert (failed.status, failed.end_reason) == (TurnStatus.FAILED, EndReason.INTERNAL)
    world.steps.release(20)
    assert (await server.turns.get(server.principal, str(running.id), wait=LONG)).status is TurnStatus.COMPLETED
