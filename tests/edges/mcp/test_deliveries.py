"""An answer has arrived once its last byte was handed to a connection on which no end had been seen."""

from dataclasses import replace
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from agentapi_mcp.core.conversations.models import EndReason, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.edges.mcp.deliveries import Deliveries, after_response
from agentapi_mcp.edges.mcp.tools.turn_results import turn_result
from tests.support.connect import LINKS, Link, blocks_of, call, connect, fields_of, open_edge
from tests.support.peers.openai import OpenAIPeer


async def arrived(*events: Message, before_response: bool = True) -> list[str]:
    """Serve a request whose connection says these things; return what was noted, by the part of the response."""
    noted: list[str] = []
    parts: list[Message] = []

    async def application(_scope: Scope, receive: Receive, send: Send) -> None:
        for _ in events:
            await receive()
        if before_response:
            after_response(lambda: noted.append(f"after {len(parts)}"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})
        if not before_response:
            after_response(lambda: noted.append("late"))

    waiting = list(events)

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        parts.append(message)

    await Deliveries(application)({"type": "http"}, receive, send)
    assert len(parts) == 3
    return noted


async def test_a_response_has_arrived_after_its_last_part() -> None:
    assert await arrived({"type": "http.request", "body": b""}) == ["after 3"]


async def test_a_response_to_a_client_that_is_gone_has_not_arrived() -> None:
    assert await arrived({"type": "http.request", "body": b""}, {"type": "http.disconnect"}) == []


async def test_what_is_asked_for_after_the_response_is_not_noted() -> None:
    assert await arrived(before_response=False) == []


def test_without_a_response_to_wait_for_it_is_noted_at_once() -> None:
    noted: list[str] = []
    after_response(lambda: noted.append("now"))
    assert noted == ["now"]


@pytest.mark.parametrize("link", LINKS)
async def test_a_message_that_is_said_again_after_its_answer_is_answered_anew(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        first = fields_of(await call(client, "chat", agent="droid", message=edge.tag))
        said = {"agent": "droid", "message": f"{edge.tag} again", "session_id": first["session_id"]}
        turns = [fields_of(await call(client, "chat", **said)) for _ in range(2)]
        assert [turn["joined"] for turn in turns] == [False, False]
        assert len(edge.peer.exchanges) == 3


SENT_BEFORE = "This message was sent before, and this is the turn that answers it."


@pytest.mark.parametrize("link", LINKS)
async def test_a_joined_answer_says_so_first_and_how_to_ask_anew(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        said: dict[str, object] = {"agent": "droid", "message": f"{edge.tag} [[slow]]"}
        running = fields_of(await call(client, "chat", wait_seconds=0, **said))
        assert running["joined"] is False
        joined = await call(client, "chat", wait_seconds=0, **said)
        assert (fields_of(joined)["turn_id"], fields_of(joined)["joined"]) == (running["turn_id"], True)
        assert blocks_of(joined)[-1].splitlines()[0] == f"({SENT_BEFORE} Pass new: true to ask it anew.)"
        anew = fields_of(await call(client, "chat", wait_seconds=0, new=True, **said))
        assert anew["turn_id"] != running["turn_id"]
        for turn in (running, anew):
            await call(client, "cancel_turn", turn_id=turn["turn_id"])


async def test_a_client_that_was_updated_meanwhile_joins_its_turn_and_another_client_does_not(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        said: dict[str, object] = {"agent": "droid", "message": f"{edge.tag} [[slow]]", "wait_seconds": 0}
        turns: list[dict[str, object]] = []
        for name, version in (("ide", "1.0"), ("ide", "1.1"), ("other", "1.0")):
            async with connect(edge.server, "stdio-2026", name=name, version=version) as client:
                turns.append(fields_of(await call(client, "chat", **said)))
        running, joined, others = turns
        assert (joined["turn_id"], joined["joined"]) == (running["turn_id"], True)
        assert (others["turn_id"] != running["turn_id"], others["joined"]) == (True, False)
        async with connect(edge.server, "stdio-2026") as client:
            for turn in (running, others):
                await call(client, "cancel_turn", turn_id=turn["turn_id"])


async def test_a_joined_answer_offers_to_ask_anew_only_where_that_is_not_refused(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        said: dict[str, object] = {"agent": "droid", "message": edge.tag, "idempotency_key": edge.tag}
        first = fields_of(await call(client, "chat", **said))
        by_key = await call(client, "chat", **said)
        assert blocks_of(by_key)[-1].splitlines()[0] == f"({SENT_BEFORE} Pass another idempotency_key to ask it anew.)"
        assert (await call(client, "chat", new=True, **said)).is_error
        anew = fields_of(await call(client, "chat", **(said | {"idempotency_key": f"{edge.tag} anew"})))
        assert (anew["joined"], anew["turn_id"] != first["turn_id"]) == (False, True)

        goes_on: dict[str, object] = {"message": "[[waits]]", "session_id": first["session_id"], "wait_seconds": 0}
        running = fields_of(await call(client, "chat", **goes_on))
        joined = await call(client, "chat", **goes_on)
        assert blocks_of(joined)[-1].splitlines()[0] == f"({SENT_BEFORE})"
        assert (await call(client, "chat", new=True, **goes_on)).is_error
        await call(client, "cancel_turn", turn_id=running["turn_id"])


async def test_a_joined_turn_that_was_interrupted_or_given_up_offers_its_retry_alone(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        request = ChatRequest(message=f"{edge.tag} [[waits]]", agent="droid", session_id=None)
        running = await edge.services.turns.start(edge.services.principal, request)
        joined = replace(running, asked_at=running.created_at, joined=True)
        for turn in (
            replace(joined, status=TurnStatus.INTERRUPTED),
            replace(joined, status=TurnStatus.CANCELLED, end_reason=EndReason.ABANDONED),
        ):
            said = blocks_of(turn_result(turn, request.sent))[-1]
            assert said.splitlines()[0] == f"({SENT_BEFORE})"
            assert "retry: true" in said
            assert "new: true" not in said
        await edge.services.turns.cancel(edge.services.principal, str(running.id))
