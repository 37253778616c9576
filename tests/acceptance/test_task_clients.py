"""Clients that take tasks, before a server of several replicas: `ext-tasks` of npm, and as Claude Code asks."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentapi_mcp.testing.http import Steps
from agentapi_mcp.web.application import WebOptions
from tests.support import npm_peers
from tests.support.asking_turns import ACCEPT, PLAIN, QUESTION, AskingTurns
from tests.support.connect import Edge, open_edge
from tests.support.edges import mcp_application
from tests.support.peers.openai import OpenAIPeer
from tests.support.raw_client import raw_client
from tests.support.replicas import serve_replicas

pytestmark = pytest.mark.acceptance
_OLDEST_NODE = 22
SLOW = "[[slow]] [[chunks2]]"


@asynccontextmanager
async def replicas(home: Path, steps: Steps, *questions: str) -> AsyncGenerator[tuple[str, Edge]]:
    """Serve two whole programs on one database, whose agents ask these questions."""
    views = AskingTurns(*questions)
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(open_edge(home, OpenAIPeer(pace=steps))) for _ in range(2)]
        for edge in edges:
            edge.server.parts.tasks.views = views
        url = await stack.enter_async_context(
            serve_replicas([mcp_application(edge.server, WebOptions()) for edge in edges])
        )
        yield url, edges[0]


@asynccontextmanager
async def ext_tasks(url: str, message: str, **told: object) -> AsyncGenerator[AsyncGenerator[dict[str, Any]]]:
    """Run the client, and yield what it tells."""
    modules = await asyncio.to_thread(npm_peers.installed, "npm_clients")
    program = Path(npm_peers.__file__).parent / "npm_clients" / "tasks.mjs"
    with tempfile.TemporaryDirectory(prefix="node-") as home:
        process = await asyncio.create_subprocess_exec(
            str(npm_peers.node_bin(_OLDEST_NODE) / "node"),
            str(program),
            str(modules),
            json.dumps({"url": url, "message": message, **told}),
            env={**npm_peers.node_environment(_OLDEST_NODE), "HOME": home},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr,
        )
        assert process.stdout is not None
        output = process.stdout

        async def events() -> AsyncGenerator[dict[str, Any]]:
            while line := await output.readline():
                yield json.loads(line)

        yield events()
        assert await process.wait() == 0


async def test_ext_tasks_waits_for_the_result_of_a_task(edge_home: Path) -> None:
    steps = Steps()
    async with replicas(edge_home, steps) as (url, edge), ext_tasks(url, f"{edge.tag} {SLOW}") as events:
        assert await anext(events) == {"kind": "task"}
        steps.release(20)
        told = await anext(events)
    assert told["status"] == "completed"
    assert told["result"]["structuredContent"]["reply"] == "w0 w1 "
    assert told["result"]["structuredContent"]["cost_usd"] is not None


async def test_ext_tasks_takes_a_short_answer_in_place(edge_home: Path) -> None:
    async with replicas(edge_home, Steps()) as (url, edge), ext_tasks(url, f"{edge.tag} [[e400]]") as events:
        assert await anext(events) == {"kind": "immediate"}
        told = await anext(events)
    assert told["status"] == "completed"
    assert told["result"]["isError"]


async def test_ext_tasks_cancels_a_task(edge_home: Path) -> None:
    async with (
        replicas(edge_home, Steps()) as (url, edge),
        ext_tasks(url, f"{edge.tag} {SLOW}", cancels=True) as events,
    ):
        assert await anext(events) == {"kind": "task"}
        assert (await anext(events))["status"] == "cancelled"


@pytest.mark.parametrize(
    ("answer", "answered"), [(ACCEPT, 'accept {"choice": "yes"}'), ({"action": "decline"}, "decline null")]
)
async def test_ext_tasks_answers_what_the_agent_asks(
    answer: Mapping[str, object], answered: str, edge_home: Path
) -> None:
    steps = Steps()
    async with (
        replicas(edge_home, steps, "q") as (url, edge),
        ext_tasks(url, f"{edge.tag} {SLOW}", answer=answer) as events,
    ):
        assert await anext(events) == {"kind": "task"}
        assert await anext(events) == {"asked": QUESTION}
        views = edge.server.parts.tasks.views
        assert isinstance(views, AskingTurns)
        await views.has_answer.wait()
        steps.release(20)
        assert (await anext(events))["result"]["structuredContent"]["status"] == "completed"
        assert views.answered == {"q": answered}


async def test_ext_tasks_without_an_answer_is_given_the_question(edge_home: Path) -> None:
    async with replicas(edge_home, Steps(), "q") as (url, edge), ext_tasks(url, f"{edge.tag} {SLOW}") as events:
        assert await anext(events) == {"kind": "task"}
        told = await anext(events)  # it answers `cancel`, and would otherwise ask for ever
    assert told["status"] == "completed"
    assert told["result"]["content"][0]["text"] == PLAIN


async def test_as_claude_code_asks_a_call_goes_to_the_background_and_its_form_comes_back(edge_home: Path) -> None:
    steps = Steps()
    async with replicas(edge_home, steps, "q") as (url, edge), raw_client(url) as claude:
        created = await claude.chat(agent="droid", message=f"{edge.tag} {SLOW}")  # its default wait: two seconds
        assert (created["resultType"], created["status"]) == ("task", "working")
        asked = await claude.task(created["taskId"])
        assert asked["status"] == "input_required"
        assert asked["inputRequests"]["q"]["params"]["message"] == QUESTION
        await claude.update(created["taskId"], q=ACCEPT)
        assert (await claude.task(created["taskId"]))["status"] == "working"
        steps.release(20)
        ended = await claude.until_ended(created["taskId"])
        assert ended["result"]["structuredContent"]["status"] == "completed"


async def test_as_claude_code_asks_without_a_terminal_the_question_is_the_result(edge_home: Path) -> None:
    async with replicas(edge_home, Steps(), "q") as (url, edge), raw_client(url) as claude:
        created = await claude.chat(agent="droid", message=f"{edge.tag} {SLOW}", wait_seconds=0)
        await claude.update(created["taskId"], q={"action": "cancel"})
        ended = await claude.task(created["taskId"])
        assert (ended["status"], ended["result"]["content"][0]["text"]) == ("completed", PLAIN)
