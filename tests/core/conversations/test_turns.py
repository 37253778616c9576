"""Turns on real stores: accepted once, joined, waited for, cancelled, abandoned, settled."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import BackendError, BackendFault, ConflictError, InvalidRequestError, NotFoundError
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.core.catalogue.parameters import Parameters
from agentapi_mcp.core.conversations.models import EndReason, TurnEnded, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.support.peers.openai import OpenAIPeer

LONG = timedelta(seconds=25)
NOW = timedelta(0)


@asynccontextmanager
async def program(home: Path, peer: OpenAIPeer, *, grace: float = 15, shutdown: float = 0) -> AsyncGenerator[Services]:
    """Open one process's worth of the program on a home."""
    settings = Settings(
        home=home, postgres_linger_seconds=20, abandon_grace_seconds=grace, shutdown_grace_seconds=shutdown
    )
    environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    async with open_app(settings, environ) as app:
        yield await app.services_provider.services()


def asks(words: str, **given: str | None) -> ChatRequest:
    """Ask `droid` something that no other test asks."""
    return ChatRequest(message=f"{uuid4()} {words}", agent="droid", **given)  # type: ignore[arg-type]  # texts only


async def test_an_answer_carries_its_whole_bill(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        turn = await server.turns.chat(server.principal, asks("hello"), wait=LONG)
    assert turn.status is TurnStatus.COMPLETED
    assert turn.saved
    assert turn.bill.usage.input_tokens is not None
    assert turn.bill.usage.cost_usd is not None
    assert turn.bill.usage.cost_usd > Decimal(0)
    assert turn.bill.cost_source == "provider"
    assert turn.bill.latency is not None
    assert turn.bill.time_to_first_token is not None
    assert [attempt.outcome for attempt in turn.bill.route] == ["completed"]


@pytest.mark.parametrize(
    ("words", "bill"),
    [
        ("e401", (0, "refused")),
        ("e402", (0, "refused")),
        ("e404", (0, "refused")),
        ("e429", (0, "refused")),
        ("e500", (None, None)),
        ("cut", (None, None)),
    ],
)
async def test_a_refusal_costs_nothing_and_a_cut_answer_what_nobody_knows(
    words: str, bill: tuple[Decimal | None, str | None], edge_home: Path
) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        turn = await server.turns.chat(server.principal, asks(f"[[{words}]]"), wait=LONG)
        kept = await server.turns.get(server.principal, str(turn.id))
    assert turn.status is TurnStatus.FAILED
    assert (turn.bill.usage.cost_usd, turn.bill.cost_source) == bill
    assert (kept.bill.usage.cost_usd, kept.bill.cost_source) == bill


@pytest.mark.parametrize(("asked", "sent"), [(None, 4096), (7, 7), (100_000, 4096)])
async def test_the_longest_answer_of_a_declared_model_bounds_every_request(
    asked: int | None, sent: int, edge_home: Path
) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        request = replace(asks("hello", model="gpt-4-turbo"), parameters=Parameters(max_tokens=asked))
        await server.turns.chat(server.principal, request, wait=LONG)
        assert peer.exchanges[0].json["max_tokens"] == sent


async def test_the_same_key_finds_the_same_turn_and_another_message_is_refused(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        request = asks("once", idempotency_key=str(uuid4()))
        first = await server.turns.chat(server.principal, request, wait=LONG)
        again = await server.turns.chat(server.principal, request, wait=LONG)
        assert again.id == first.id
        assert again.reply == first.reply
        with pytest.raises(ConflictError):
            await server.turns.chat(server.principal, asks("other", idempotency_key=request.idempotency_key), wait=LONG)
        assert len(peer.exchanges) == 1


async def test_the_same_key_at_once_from_two_processes_asks_once(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, peer) as one, program(edge_home, peer) as two:
        request = asks("[[slow]] [[chunks2]]", idempotency_key=str(uuid4()))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.turns.chat(server.principal, request, wait=NOW)) for server in (one, two)]
        first, second = (task.result() for task in tasks)
        assert first.id == second.id
        steps.release(20)
        ended = await two.turns.get(two.principal, str(first.id), wait=LONG)
        assert ended.status is TurnStatus.COMPLETED
        assert len(peer.exchanges) == 1


async def test_two_live_callers_of_the_same_text_get_two_turns(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, peer) as server:
        request = asks("[[slow]] [[chunks2]]")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.turns.chat(server.principal, request, wait=LONG)) for _ in range(2)]
            await peer.received(2)
            steps.release(20)
        assert tasks[0].result().id != tasks[1].result().id


async def test_a_session_that_answers_refuses_another_message_and_joins_the_same(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, peer) as server:
        begun = await server.turns.chat(server.principal, asks("begin"), wait=LONG)
        session = str(begun.session_id)
        request = asks("[[slow]] [[chunks2]]", session_id=session)
        running = await server.turns.chat(server.principal, request, wait=NOW)
        assert running.status is TurnStatus.RUNNING
        with pytest.raises(ConflictError) as refused:
            await server.turns.chat(server.principal, asks("more", session_id=session), wait=NOW)
        assert refused.value.turn_id == str(running.id)
        joined = await server.turns.chat(server.principal, request, wait=NOW)
        assert joined.id == running.id
        steps.release(20)
        await server.turns.get(server.principal, str(running.id), wait=LONG)
        assert len(peer.exchanges) == 2


async def test_the_history_is_sent_with_the_next_message(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        first = asks("[[echo]] remember")
        begun = await server.turns.chat(server.principal, first, wait=LONG)
        second = asks("and now", session_id=str(begun.session_id))
        await server.turns.chat(server.principal, second, wait=LONG)
        sent = cast("list[dict[str, str]]", (await peer.received(2)).json["messages"])
        assert [m["content"] for m in sent if m["role"] != "system"] == [first.message, begun.reply, second.message]


async def test_cancelling_from_another_process_reaches_the_provider(edge_home: Path) -> None:
    async with (
        OpenAIPeer(pace=Steps()) as peer,
        program(edge_home, peer) as owner,
        program(edge_home, peer) as other,
    ):
        running = await owner.turns.chat(owner.principal, asks("[[slow]] [[chunks9]]"), wait=NOW)
        exchange = await peer.received(1)
        cancelled = await other.turns.cancel(other.principal, str(running.id))
        assert cancelled.status is TurnStatus.CANCELLED
        assert cancelled.end_reason is EndReason.CANCEL_TURN
        assert cancelled.bill.usage.cost_usd is None
        await exchange.gone.wait()
        again = await owner.turns.cancel(owner.principal, str(running.id))
        assert again.status is TurnStatus.CANCELLED


async def test_a_turn_whose_caller_went_away_is_joined_by_who_asks_again(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, peer, grace=60) as server:
        request = asks("[[slow]] [[chunks2]]")
        gone = asyncio.ensure_future(server.turns.chat(server.principal, request, wait=LONG))
        await peer.received(1)
        gone.cancel()
        await asyncio.wait({gone})
        again = await server.turns.chat(server.principal, request, wait=NOW)
        steps.release(20)
        ended = await server.turns.get(server.principal, str(again.id), wait=LONG)
        assert ended.status is TurnStatus.COMPLETED
        assert len(peer.exchanges) == 1


async def test_a_turn_that_nobody_waits_for_any_more_is_cancelled(edge_home: Path) -> None:
    async with OpenAIPeer(pace=Steps()) as peer, program(edge_home, peer, grace=0) as server:
        gone = asyncio.ensure_future(server.turns.chat(server.principal, asks("[[slow]] [[chunks9]]"), wait=LONG))
        exchange = await peer.received(1)
        gone.cancel()
        await exchange.gone.wait()
        async with asyncio.timeout(25):
            while True:
                turn = (await server.turns.recent(server.principal, 1))[0]
                if turn.status.is_final:
                    break
        assert turn.end_reason is EndReason.ABANDONED


async def test_a_turn_that_was_answered_running_is_not_abandoned(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, program(edge_home, peer, grace=0) as server:
        running = await server.turns.chat(server.principal, asks("[[slow]] [[chunks2]]"), wait=NOW)
        waiting = asyncio.ensure_future(server.turns.get(server.principal, str(running.id), wait=LONG))
        await peer.received(1)
        waiting.cancel()
        await asyncio.wait({waiting})
        steps.release(20)
        ended = await server.turns.get(server.principal, str(running.id), wait=LONG)
        assert ended.status is TurnStatus.COMPLETED


async def test_closing_the_program_settles_its_turns_with_the_text_so_far(edge_home: Path) -> None:
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer:
        async with program(edge_home, peer) as server:
            request = asks("[[slow]] [[chunks9]]")
            running = await server.turns.start(server.principal, request)
            steps.release(3)
            seen = ""
            async for event in server.turns.follow(server.principal, running):
                seen += event.text if isinstance(event, TextDelta) else ""
                if seen:
                    break
        async with program(edge_home, peer) as server:
            turn = await server.turns.chat(server.principal, request, wait=NOW)
            assert turn.id == running.id
            assert turn.status is TurnStatus.INTERRUPTED
            assert turn.end_reason is EndReason.SHUTDOWN
            assert turn.reply.startswith(seen)
            transcript = await server.sessions.transcript(server.principal, str(turn.session_id))
            assert [message.content for message in transcript.messages] == [request.message, turn.reply]
            assert len(peer.exchanges) == 1


async def test_following_tells_the_text_in_order_and_one_end(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        turn = await server.turns.start(server.principal, asks("[[chunks7]]"))
        events = [event async for event in server.turns.follow(server.principal, turn)]
        ended = await server.turns.get(server.principal, str(turn.id))
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == ended.reply
        assert sum(isinstance(event, TurnEnded) for event in events) == 1
        assert isinstance(events[-1], TurnEnded)


async def test_a_failed_turn_says_what_to_do_and_keeps_the_message(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        request = asks("[[e429]]")
        turn = await server.turns.chat(server.principal, request, wait=LONG)
        assert turn.status is TurnStatus.FAILED
        assert turn.error is not None
        assert turn.error.fault is BackendFault.RATE_LIMIT
        assert turn.error.retry_after == timedelta(seconds=2)
        transcript = await server.sessions.transcript(server.principal, str(turn.session_id))
        assert [message.content for message in transcript.messages] == [request.message]


async def test_a_session_may_change_its_agent(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        begun = await server.turns.chat(server.principal, asks("hello"), wait=LONG)
        session = str(begun.session_id)
        other = await server.turns.chat(
            server.principal,
            ChatRequest(message="which agents work?", agent="guide", session_id=session),
            wait=LONG,
        )
        assert (other.agent, other.session_id) == ("guide", begun.session_id)
        transcript = await server.sessions.transcript(server.principal, session)
        assert [m.turn.agent for m in transcript.messages if m.turn] == ["droid", "droid", "guide", "guide"]


async def test_who_answers_from_the_state_of_the_moment_is_asked_again(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        begun = await server.turns.chat(server.principal, asks("begin"), wait=LONG)
        # Whose answer is not known to have arrived; in a session, where the same message is never a parallel sample.
        live = ChatRequest(message="which agents work?", agent="guide", session_id=str(begun.session_id))
        keyed = replace(live, idempotency_key=str(uuid4()))
        for request, joins in ((replace(live, agent="droid"), True), (live, False), (keyed, True)):
            first = await server.turns.chat(server.principal, request, wait=LONG)
            again = await server.turns.chat(server.principal, request, wait=LONG)
            assert (again.id == first.id) is joins


BAD: list[tuple[ChatRequest, type[Exception]]] = [
    (ChatRequest(message=""), InvalidRequestError),
    (ChatRequest(message=" \n\t"), InvalidRequestError),
    (ChatRequest(message="x" * 5_000_000), InvalidRequestError),
    (ChatRequest(message="a\0b"), InvalidRequestError),
    (ChatRequest(message="half \ud800"), InvalidRequestError),
    (ChatRequest(message="hi", agent="nobody"), NotFoundError),
    (ChatRequest(message="hi", agent="guide", model="nothing"), NotFoundError),
    (ChatRequest(message="hi", agent="droid", model="gemini-2.0-pro"), InvalidRequestError),
    (ChatRequest(message="hi", agent="ccrouter"), BackendError),
    (ChatRequest(message="hi", session_id="no-id"), InvalidRequestError),
    (ChatRequest(message="hi", session_id=str(uuid4())), NotFoundError),
    (ChatRequest(message="hi", idempotency_key=""), InvalidRequestError),
    (ChatRequest(message="hi", parameters=Parameters(temperature=-1)), InvalidRequestError),
    (ChatRequest(message="hi", parameters=Parameters(temperature=float("nan"))), InvalidRequestError),
    (ChatRequest(message="hi", parameters=Parameters(temperature=1e9)), InvalidRequestError),
    (ChatRequest(message="hi", parameters=Parameters(max_tokens=0)), InvalidRequestError),
    (ChatRequest(message="hi", parameters=Parameters(max_tokens=10**12)), InvalidRequestError),
    (ChatRequest(message="hi", parameters=Parameters(system_prompt="\0")), InvalidRequestError),
]


async def test_bad_requests_are_refused_and_write_nothing(edge_home: Path) -> None:
    async with OpenAIPeer() as peer, program(edge_home, peer) as server:
        before = await server.turns.recent(server.principal, 1)
        for request, error in BAD:
            with pytest.raises(error):
                await server.turns.chat(server.principal, request, wait=NOW)
        with pytest.raises(InvalidRequestError):
            await server.turns.chat(server.principal, ChatRequest(message="hi"), wait=timedelta(seconds=-1))
        with pytest.raises(InvalidRequestError):
            await server.turns.get(server.principal, "no-id")
        with pytest.raises(NotFoundError):
            await server.turns.get(server.principal, str(uuid4()))
        assert await server.turns.recent(server.principal, 1) == before
