"""The extension for tasks: slow calls are answered later, on any replica, and to their own caller alone."""

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from mcp import Client
from mcp.client.extension import advertise
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    TextContent,
)

from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.edges.mcp.tasks.tasks import moment
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.testing.http import Steps
from agentapi_mcp.web.application import WebOptions
from tests.support.asking_turns import ACCEPT, FORM, PLAIN, QUESTION, AskingTurns
from tests.support.connect import Edge, ask_of_task, call, connect, fields_of, open_edge
from tests.support.edges import mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.raw_client import CLAUDE, SILENT, TASKS, Json, RawClient, RefusedError, raw_client

SLOW = "[[slow]] [[chunks2]]"
NOBODYS = "A" * 32


@asynccontextmanager
async def scene(home: Path, capabilities: Json = CLAUDE) -> AsyncGenerator[tuple[Edge, RawClient, Steps]]:
    """Open a server, a client, and the brake of the agent."""
    steps = Steps()
    async with (
        open_edge(home, OpenAIPeer(pace=steps)) as edge,
        serve_app(mcp_application(edge.server, WebOptions())) as place,
        raw_client(place.mcp, capabilities) as client,
    ):
        yield edge, client, steps


@asynccontextmanager
async def owner_of(home: Path) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect as the owner of the tables."""
    postgres = EmbeddedPostgres(home)
    owner = await asyncpg.connect((await asyncio.to_thread(postgres.ensure)).owner_url)
    try:
        yield owner
    finally:
        await owner.close()
        await asyncio.to_thread(postgres.release)


async def begun(edge: Edge, client: RawClient, **arguments: object) -> Json:
    """Send a message whose answer takes its time."""
    asked = {"agent": "droid", "message": f"{edge.tag} {SLOW}", "wait_seconds": 0}
    return await client.chat(**{**asked, **arguments})


async def test_a_slow_call_becomes_a_task_whose_result_is_what_chat_would_have_answered(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        created = await begun(edge, client)
        assert created.pop("_meta")["io.modelcontextprotocol/serverInfo"]["name"] == "agentapi-mcp"
        assert set(created) == {
            *("resultType", "taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs")
        }
        assert (created["resultType"], created["status"]) == ("task", "working")
        assert created["ttlMs"] == 24 * 60 * 60 * 1000
        at = datetime.fromisoformat(created["createdAt"])
        assert at.tzinfo == UTC
        assert created["createdAt"].endswith("Z")
        working = await client.task(created["taskId"])
        assert (working["resultType"], working["status"], working["taskId"]) == (
            *("complete", "working"),
            created["taskId"],
        )
        assert working["statusMessage"].startswith("Still running")
        assert not {"result", "error", "inputRequests"} & set(working)
        steps.release(20)
        ended = await client.until_ended(created["taskId"])
        assert (ended["status"], ended["result"]["resultType"]) == ("completed", "complete")
        assert ended["createdAt"] == created["createdAt"]
        assert ended["lastUpdatedAt"] >= ended["createdAt"]
        turn = ended["result"]["structuredContent"]
        async with connect(edge.server, "http-2026") as other:
            same = await call(other, "get_turn", turn_id=turn["turn_id"])
        assert turn == same.structured_content
        assert [block["text"] for block in ended["result"]["content"]] == [
            block.text for block in same.content if isinstance(block, TextContent)
        ]
        assert turn["reply"] == "w0 w1 "
        assert turn["cost_usd"] is not None


async def test_a_short_call_is_answered_in_place(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, _steps):
        result = await client.chat(agent="droid", message=f"{edge.tag}")
        assert result["resultType"] == "complete"
        assert result["structuredContent"]["status"] == "completed"


@pytest.mark.parametrize(("wait", "expected"), [(0, 0.2), (4, 0.2), (25, 1.25), (40, 2), (45, 2), (240, 2)], ids=str)
def test_the_moment_is_a_twentieth_of_the_wait_within_bounds(wait: float, expected: float) -> None:
    assert moment(timedelta(seconds=wait)) == timedelta(seconds=expected)


async def test_who_does_not_declare_it_waits_as_before(edge_home: Path) -> None:
    async with scene(edge_home, {}) as (edge, client, steps):
        running = await begun(edge, client)
        assert running["resultType"] == "complete"
        assert running["structuredContent"]["status"] == "running"
        client.capabilities = CLAUDE
        waiting = asyncio.ensure_future(
            client.ask(
                "tools/call", {"name": "get_turn", "arguments": {"turn_id": running["structuredContent"]["turn_id"]}}
            )
        )
        steps.release(20)
        assert (await waiting)["structuredContent"]["status"] == "completed"  # other tools wait for whoever declares it


async def test_in_the_2025_era_the_declaration_is_passed_over(edge_home: Path) -> None:
    steps = Steps()
    async with (
        open_edge(edge_home, OpenAIPeer(pace=steps)) as edge,
        connect(edge.server, "http-2025", extensions=[advertise(TASKS)]) as client,
    ):
        running = await call(client, "chat", agent="droid", message=f"{edge.tag} {SLOW}", wait_seconds=0)
        assert fields_of(running)["status"] == "running"
        assert await code_of(client, "tasks/get") == METHOD_NOT_FOUND


async def test_in_the_2025_era_the_extension_is_not_advertised(edge_home: Path) -> None:
    start = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tests", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start}
    async with scene(edge_home) as (_edge, client, _steps):
        answer = await client.http.post(
            client.url, json=body, headers={"accept": "application/json, text/event-stream"}
        )
        assert TASKS not in answer.text
        assert "serverInfo" in answer.text


async def test_the_extension_is_advertised_in_its_era(edge_home: Path) -> None:
    async with scene(edge_home, {}) as (_edge, client, _steps):
        capabilities = (await client.ask("server/discover", {}))["capabilities"]
        assert capabilities["extensions"] == {TASKS: {}}
        assert "tasks" not in capabilities


async def test_a_failed_turn_is_a_completed_task_with_an_error_of_the_tool(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        created = await begun(edge, client, message=f"{edge.tag} [[slow]] [[cut]]")
        steps.release(20)
        ended = await client.until_ended(created["taskId"])
        assert ended["status"] == "completed"
        assert ended["result"]["isError"]
        assert ended["result"]["structuredContent"]["status"] == "failed"
        assert "error" not in ended


async def test_a_cancelled_task_is_its_cancelled_turn(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, _steps):
        created = await begun(edge, client)
        for _ in range(2):  # one that has ended stays as it is
            acknowledged = await client.cancel(created["taskId"])
            assert set(acknowledged) == {"resultType", "_meta"}
            assert acknowledged["resultType"] == "complete"
        ended = await client.until_ended(created["taskId"])
        assert ended["status"] == "cancelled"
        assert "Send the message again" in ended["statusMessage"]
        assert not {"result", "error", "inputRequests"} & set(ended)
        (turn,) = await edge.services.turns.recent(edge.services.principal, 1)
        assert turn.status is TurnStatus.CANCELLED


async def test_a_task_that_joined_a_turn_says_so_in_its_result(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        first = await begun(edge, client, idempotency_key=edge.tag)
        again = await begun(edge, client, idempotency_key=edge.tag)
        assert first["taskId"] != again["taskId"]
        steps.release(20)
        results = [(await client.until_ended(each["taskId"]))["result"] for each in (first, again)]
        assert [result["structuredContent"]["joined"] for result in results] == [False, True]
        assert "Pass another idempotency_key" in results[1]["content"][-1]["text"]


async def test_an_answer_that_was_fetched_by_its_task_counts_as_delivered(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        asked = {"agent": "droid", "message": f"{edge.tag} {SLOW}", "wait_seconds": 0}
        created = await client.chat(**asked)
        steps.release(20)
        first = (await client.until_ended(created["taskId"]))["result"]["structuredContent"]
        async with owner_of(edge_home) as owner:  # it is written a moment after
            delivered = "SELECT delivered_at IS NOT NULL FROM agentapi.turns WHERE id = $1"
            while not await owner.fetchval(delivered, first["turn_id"]):
                pass
        anew = (await client.chat(**{**asked, "wait_seconds": 25}))["structuredContent"]
        assert (anew["joined"], anew["turn_id"] != first["turn_id"]) == (False, True)


async def test_a_task_that_nobody_fetched_gives_its_answer_to_the_same_message(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        asked = {"agent": "droid", "message": f"{edge.tag} {SLOW}"}
        await client.chat(**asked, wait_seconds=0)
        steps.release(20)
        await edge.services.turns.until_idle()
        joined = (await client.chat(**asked))["structuredContent"]
        assert (joined["status"], joined["joined"]) == ("completed", True)


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_methods_of_the_older_tasks_are_not_there(method: str, edge_home: Path) -> None:
    async with scene(edge_home) as (_edge, client, _steps):
        with pytest.raises(RefusedError) as refused:
            await client.ask(method, {"taskId": NOBODYS})
        assert refused.value.code == METHOD_NOT_FOUND


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_who_may_not_ask_is_told_why(method: str, edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, _steps):
        task_id: str = (await begun(edge, client))["taskId"]

        async def code(given: object = task_id, **headers: str | None) -> int:
            params: Json = {"taskId": given, "inputResponses": {}}
            with pytest.raises(RefusedError) as refused:
                await client.ask(method, params, {"mcp-name": str(given).encode("ascii", "ignore").decode(), **headers})
            assert "taskId" in refused.value.message or "task" in refused.value.message.lower()
            return refused.value.code

        assert await code(NOBODYS) == INVALID_PARAMS
        assert await code("no such task") == INVALID_PARAMS
        assert await code(**{"mcp-name": NOBODYS}) == HEADER_MISMATCH
        assert await code(**{"mcp-name": "=?base64?AAAA?="}) == HEADER_MISMATCH
        client.capabilities = {"elicitation": {}}
        assert await code() == MISSING_REQUIRED_CLIENT_CAPABILITY
        client.capabilities = CLAUDE
        # Some clients send no such header.
        assert (await client.ask(method, {"taskId": task_id, "inputResponses": {}}, {"mcp-name": None}))["resultType"]


@pytest.mark.parametrize("params", [{}, {"taskId": 7}, {"taskId": None}, {"taskId": "x", "inputResponses": []}])
async def test_parameters_of_another_shape_are_refused(params: Json, edge_home: Path) -> None:
    async with scene(edge_home) as (_edge, client, _steps):
        with pytest.raises(RefusedError) as refused:
            await client.ask("tasks/update", params, {"mcp-name": None})
        assert refused.value.code == INVALID_PARAMS


async def test_what_is_missing_is_named_as_the_extension(edge_home: Path) -> None:
    async with scene(edge_home, {}) as (_edge, client, _steps):
        with pytest.raises(RefusedError) as refused:
            await client.task(NOBODYS)
        assert refused.value.data == {"requiredCapabilities": {"extensions": {TASKS: {}}}}


async def test_where_no_task_can_be_kept_the_call_is_answered_as_others_are(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        async with owner_of(edge_home) as owner:
            await owner.execute("ALTER TABLE agentapi.tasks RENAME TO hidden")
            try:
                running = await begun(edge, client)
            finally:
                await owner.execute("ALTER TABLE agentapi.hidden RENAME TO tasks")
        assert running["resultType"] == "complete"
        assert running["structuredContent"]["status"] == "running"
        steps.release(20)


async def test_questions_are_open_until_they_are_answered(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        edge.server.parts.tasks.views = views = AskingTurns("first", "second")
        created = await begun(edge, client)
        assert (created["status"], "inputRequests" in created) == ("working", False)
        asked = await client.task(created["taskId"])
        assert (asked["status"], asked["statusMessage"]) == ("input_required", "It waits for you.")
        assert asked["inputRequests"] == {
            key: {
                "method": "elicitation/create",
                "params": {"mode": "form", "message": QUESTION, "requestedSchema": FORM},
            }
            for key in ("first", "second")
        }
        # Keys that nobody asked are passed over before their value is read.
        acknowledged = await client.update(created["taskId"], first=ACCEPT, other={"no": "answer"})
        assert set(acknowledged) == {"resultType", "_meta"}
        assert set((await client.task(created["taskId"]))["inputRequests"]) == {"second"}
        await client.update(created["taskId"], first={"no": "answer"}, second={"action": "decline"})
        assert views.answered == {"first": 'accept {"choice": "yes"}', "second": "decline null"}
        assert (await client.task(created["taskId"]))["status"] == "working"
        steps.release(20)
        assert (await client.until_ended(created["taskId"]))["status"] == "completed"
        await client.update(created["taskId"], second=ACCEPT)
        assert views.answered["second"] == "decline null"


async def test_what_is_no_answer_to_an_open_question_is_refused_and_answers_none(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, _steps):
        edge.server.parts.tasks.views = views = AskingTurns("first", "second")
        created = await begun(edge, client)
        for wrong in ({"no": "answer"}, "yes", None, {"action": "maybe"}):
            with pytest.raises(RefusedError, match=r"inputResponses\.second") as refused:
                await client.update(created["taskId"], first=ACCEPT, second=wrong)
            assert refused.value.code == INVALID_PARAMS
        assert views.answered == {}


@pytest.mark.parametrize("how", ["a client that cannot ask", "a form that was closed"])
async def test_a_question_that_nobody_can_answer_ends_the_call_with_the_question(how: str, edge_home: Path) -> None:
    async with scene(edge_home, SILENT if how == "a client that cannot ask" else CLAUDE) as (edge, client, steps):
        edge.server.parts.tasks.views = views = AskingTurns("first")
        created = await begun(edge, client)
        if client.capabilities is CLAUDE:
            await client.update(created["taskId"], first={"action": "cancel"})
        ended = await client.task(created["taskId"])
        assert ended["status"] == "completed"
        assert ended["result"]["content"][0]["text"] == PLAIN
        assert ended["result"]["resultType"] == "complete"
        assert views.answered == {}
        assert views.open == ["first"]
        views.open.clear()
        steps.release(20)
        await edge.services.turns.until_idle()
        client.capabilities = CLAUDE
        assert await client.task(created["taskId"]) == ended  # what a call was answered never changes
        # The answer of the turn has not arrived. That of another has since, and is noted with all before it.
        client.capabilities = {}
        other_turn = (await client.chat(agent="droid", message=f"{edge.tag} another"))["structuredContent"]["turn_id"]
        turn = ended["result"]["structuredContent"]["turn_id"]
        async with owner_of(edge_home) as owner:
            delivered = "SELECT delivered_at IS NOT NULL FROM agentapi.turns WHERE id = $1"
            while not await owner.fetchval(delivered, other_turn):
                pass
            assert not await owner.fetchval(delivered, turn)


@pytest.mark.parametrize(
    ("elicitation", "status"),
    [
        ({}, "input_required"),
        ({"form": {}}, "input_required"),
        ({"url": {}}, "completed"),
        ({"form": {}, "url": {}}, "input_required"),
    ],
)
async def test_a_form_is_for_clients_that_show_forms(elicitation: Json, status: str, edge_home: Path) -> None:
    capabilities: Json = {**SILENT, "elicitation": elicitation}
    async with scene(edge_home, capabilities) as (edge, client, _steps):
        edge.server.parts.tasks.views = AskingTurns("first")
        created = await begun(edge, client)
        assert (await client.task(created["taskId"]))["status"] == status


async def test_a_listener_hears_of_its_tasks_at_first_and_when_they_end(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, steps):
        created = await begun(edge, client)
        wanted = [created["taskId"], NOBODYS, created["taskId"]]
        async with client.listening(taskIds=wanted, resourcesListChanged=True) as messages:
            acknowledged = await anext(messages)
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            assert acknowledged["params"]["notifications"] == {
                "resourcesListChanged": True,
                "taskIds": [created["taskId"]],
            }
            first = await anext(messages)
            assert (first["method"], first["params"]["status"]) == ("notifications/tasks", "working")
            steps.release(20)
            last = await anext(of_tasks(messages))
            stated = await client.task(created["taskId"])
            for fields in (last["params"], stated):
                fields.pop("_meta")
                fields.pop("pollIntervalMs")
            assert last["params"] == {name: value for name, value in stated.items() if name != "resultType"}
            assert last["params"]["status"] == "completed"
        async with client.listening(taskIds=[created["taskId"]]) as messages:  # of one that has ended, too
            assert [(await anext(messages))["method"] for _ in range(2)][1] == "notifications/tasks"


async def test_a_stream_keeps_nothing_of_what_it_has_looked_at(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, _steps):
        created = await begun(edge, client)
        async with client.listening(taskIds=[created["taskId"]]) as messages:
            await anext(messages)
            await anext(messages)
            for number in range(10):  # each end of a turn of this user makes it look again
                await client.chat(agent="guide", message=f"{edge.tag} {number}")
            gc.collect()
            kept = [each for each in gc.get_objects() if isinstance(each, Turn) and each.message.endswith(SLOW)]
    assert 1 <= len(kept) <= 4  # as it began, as it is, and what was told last


async def of_tasks(messages: AsyncGenerator[Json]) -> AsyncGenerator[Json]:
    async for message in messages:
        if message["method"] == "notifications/tasks":
            yield message


async def test_a_notification_names_its_stream(edge_home: Path) -> None:
    async with scene(edge_home) as (edge, client, _steps):
        created = await begun(edge, client)
        async with client.listening(taskIds=[created["taskId"]]) as messages:
            stamps = [(await anext(messages))["params"]["_meta"] for _ in range(2)]
        assert stamps[0] == stamps[1]
        assert list(stamps[0]) == ["io.modelcontextprotocol/subscriptionId"]


@pytest.mark.parametrize(
    ("capabilities", "ids", "code"),
    [
        ({}, [NOBODYS], MISSING_REQUIRED_CLIENT_CAPABILITY),
        (CLAUDE, "all", INVALID_PARAMS),
        (CLAUDE, [7], INVALID_PARAMS),
        (CLAUDE, [f"{number:032}" for number in range(201)], INVALID_PARAMS),
    ],
    ids=["not-declared", "no-list", "no-ids", "too-many"],
)
async def test_a_stream_of_tasks_is_refused_as_the_methods_are(
    capabilities: Json, ids: object, code: int, edge_home: Path
) -> None:
    async with scene(edge_home, capabilities) as (_edge, client, _steps):
        with pytest.raises(RefusedError) as refused:
            async with client.listening(taskIds=ids) as messages:
                await anext(messages)
        assert refused.value.code == code


async def code_of(client: Client, method: str) -> int:
    """Send a request that is refused, and return the code."""
    with pytest.raises(MCPError) as refused:
        await ask_of_task(client, method, NOBODYS)
    return refused.value.error.code


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_the_methods_are_served_over_stdio(method: str, edge_home: Path) -> None:
    declared = [advertise(TASKS)]
    async with open_edge(edge_home, OpenAIPeer()) as edge:
        async with connect(edge.server, "stdio-2026", extensions=declared) as client:
            assert await code_of(client, method) == INVALID_PARAMS
        async with connect(edge.server, "stdio-2026") as client:
            assert await code_of(client, method) == MISSING_REQUIRED_CLIENT_CAPABILITY
        async with connect(edge.server, "stdio-2025", extensions=declared) as client:
            assert await code_of(client, method) == METHOD_NOT_FOUND
