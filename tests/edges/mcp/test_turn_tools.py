"""Talking to agents through the tools, in both protocol eras, against real stores and a peer instead of a provider."""

import asyncio
from pathlib import Path
from typing import cast

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from agentapi_mcp.core.conversations.models import TurnCost
from agentapi_mcp.core.services import Services
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.presentation.costs import cost_json
from agentapi_mcp.testing.http import Steps
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.connect import LINKS, Link, blocks_of, call, connect, fields_of, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

TURN_FIELDS = {
    "text", "session_id", "turn_id", "status", "stop_reason", "reply", "reply_truncated", "agent", "backend", "model",
    "history_dropped", "warning", "end_reason", "saved", "transcript_uri", "next_step", "error", "joined", "asked",
    "estimated_cost_usd",
} | cost_json(TurnCost()).keys()  # fmt: skip


@pytest.mark.parametrize("link", LINKS)
async def test_chat_answers_the_reply_first_then_the_bill_and_the_ids(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        result = await call(client, "chat", agent="droid", message=f"{edge.tag} [[echo]]")
        turn, text = fields_of(result), text_of(result)
        assert not result.is_error
        assert set(turn) == TURN_FIELDS
        assert turn["status"] == "completed"
        [reply, bill] = blocks_of(result)
        assert reply == turn["reply"]
        assert bill in text.splitlines()
        assert f"session_id {turn['session_id']}" in bill
        assert f"turn_id {turn['turn_id']}" in bill
        assert isinstance(turn["cost_usd"], float)
        assert turn["cost_source"] == "provider"


@pytest.mark.parametrize("link", LINKS)
async def test_an_answer_is_text_alone_and_its_fields_name_the_transcript(link: Link, edge_home: Path) -> None:
    """LangChain makes of a resource link a file for the model, which every provider refuses."""
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        result = await call(client, "chat", agent="droid", message=edge.tag)
        assert {content.type for content in result.content} == {"text"}
        read = await client.read_resource(str(fields_of(result)["transcript_uri"]))
        assert edge.tag in str(read.contents)


@pytest.mark.parametrize("link", LINKS)
async def test_a_session_goes_on_with_its_id(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        first = fields_of(await call(client, "chat", agent="droid", message=edge.tag))
        second = fields_of(await call(client, "chat", session_id=first["session_id"], message="and now"))
        assert second["session_id"] == first["session_id"]
        assert second["agent"] == "droid"
        sent = cast("list[dict[str, object]]", (await edge.peer.received(2)).json["messages"])
        assert [message["content"] for message in sent if message["role"] == "user"] == [edge.tag, "and now"]


@pytest.mark.parametrize("link", LINKS)
async def test_when_the_wait_is_over_the_turn_runs_on_and_get_turn_finds_its_end(link: Link, edge_home: Path) -> None:
    steps = Steps()
    async with open_edge(edge_home, OpenAIPeer(pace=steps)) as edge, connect(edge.server, link) as client:
        result = await call(client, "chat", agent="droid", message=f"{edge.tag} [[slow]] [[chunks3]]", wait_seconds=0)
        turn = fields_of(result)
        assert not result.is_error
        assert turn["status"] == "running"
        assert f"get_turn with turn_id {turn['turn_id']}" in text_of(result)
        steps.release(3)
        ended = fields_of(await call(client, "get_turn", turn_id=turn["turn_id"], wait_seconds=25))
        assert (ended["status"], ended["reply"]) == ("completed", "w0 w1 w2 ")


@pytest.mark.parametrize("link", LINKS)
async def test_cancel_turn_stops_the_agent_and_keeps_what_it_said(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        running = fields_of(await call(client, "chat", agent="droid", message=f"{edge.tag} [[waits]]", wait_seconds=0))
        await edge.peer.received()
        result = await call(client, "cancel_turn", turn_id=running["turn_id"])
        cancelled, running = fields_of(result), fields_of(await call(client, "get_turn", turn_id=running["turn_id"]))
        assert cancelled["status"] == "cancelled"
        bill = ("usage", "cost_usd", "billing_may_go_on")
        assert [cancelled[name] for name in bill] == [running[name] for name in bill]
        assert not result.is_error
        await edge.peer.client_gone()


@pytest.mark.parametrize("link", LINKS)
async def test_a_failed_turn_is_an_error_with_its_next_step_and_all_its_fields(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        result = await call(client, "chat", agent="droid", message=f"{edge.tag} [[e402]]")
        turn = fields_of(result)
        assert result.is_error
        assert set(turn) == TURN_FIELDS
        error = cast("dict[str, object]", turn["error"])
        assert error["code"] == "payment"
        assert "set another one in OPENROUTER_API_KEY" in str(error["next_step"])
        assert str(error["next_step"]) in text_of(result)
        again = await call(client, "get_turn", turn_id=turn["turn_id"])
        assert again.is_error
        assert fields_of(again)["error"] == error


async def test_a_withdrawn_model_that_the_provider_refuses_is_told_with_the_catalogues_warning(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, LINKS[0]) as client:
        result = await call(client, "chat", agent="droid", model="claude-3-opus", message=f"{edge.tag} [[e404]]")
        error = cast("dict[str, object]", fields_of(result)["error"])
        assert error["code"] == "not_found"
        assert "Withdrawn by Anthropic on 2026-05-01" in str(error["next_step"])
        assert str(error["next_step"]) in text_of(result)


@pytest.mark.parametrize("link", LINKS)
async def test_a_long_reply_is_cut_for_the_client_and_whole_in_the_transcript(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        message = f"[[echo]] {edge.tag} " + "ööööööööö " * 8_000
        result = await call(client, "chat", agent="droid", message=message)
        turn, text = fields_of(result), text_of(result)
        assert turn["reply_truncated"] is True
        assert len(str(turn["reply"]).encode()) <= 80_000
        assert len(text.encode()) < 81_000
        assert f"get_transcript with session_id {turn['session_id']}" in text
        assert text.splitlines()[-1].endswith(f"turn_id {turn['turn_id']}]")
        transcript = fields_of(await call(client, "get_transcript", session_id=turn["session_id"]))
        assert ("ööööööööö " * 8_000).strip() in str(transcript["markdown"])


@pytest.mark.parametrize("link", LINKS)
async def test_progress_tells_the_count_and_the_tail_and_grows(link: Link, edge_home: Path) -> None:
    steps, heard = Steps(), list[tuple[float, str]]()
    told = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        heard.append((progress, message or ""))
        if "6 characters so far: …w0 w1 " in (message or ""):
            told.set()

    async with open_edge(edge_home, OpenAIPeer(pace=steps)) as edge, connect(edge.server, link) as client:
        async with asyncio.TaskGroup() as group:
            message = f"{edge.tag} [[slow]] [[chunks3]]"
            asked = group.create_task(
                client.call_tool("chat", {"agent": "droid", "message": message}, progress_callback=hear)
            )
            steps.release(2)
            await told.wait()
            steps.release()
        assert fields_of(asked.result())["reply"] == "w0 w1 w2 "
    values = [progress for progress, _ in heard]
    assert values == sorted(set(values))


@pytest.mark.parametrize("link", LINKS)
async def test_the_first_piece_is_told_at_once(link: Link, edge_home: Path) -> None:
    heard = list[str]()

    async def hear(progress: float, total: float | None, message: str | None) -> None:  # the client awaits it
        del progress, total
        heard.append(message or "")

    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        message = f"{edge.tag} [[chunks40]]"  # it is whole long before the first half second is over
        await client.call_tool("chat", {"agent": "droid", "message": message}, progress_callback=hear)
    assert len(heard) >= 1
    assert "w0" in heard[0]


@pytest.mark.parametrize("link", LINKS)
async def test_without_a_token_there_is_no_progress(link: Link, edge_home: Path) -> None:
    heard = list[object]()

    async def hear(message: object) -> None:  # the client awaits it
        heard.append(message)

    async with (
        open_edge(edge_home, OpenAIPeer()) as edge,
        connect(edge.server, link, message_handler=hear) as client,
    ):
        await call(client, "chat", agent="droid", message=edge.tag)
    assert not [message for message in heard if type(message).__name__ == "ProgressNotification"]


@pytest.mark.parametrize("link", LINKS)
async def test_a_request_that_is_taken_back_frees_the_agent(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(call(client, "chat", agent="droid", message=f"{edge.tag} [[waits]]"))
            await edge.peer.received()
            asked.cancel()
        await expect_soon(edge.peer.client_gone(), "the request to the provider is closed")  # abandon_grace is 0 here


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("chat", {"message": "  "}, "blank"),
        ("chat", {"message": "a\0b"}, "NUL"),
        ("chat", {"message": "a\ud800b"}, "surrogate"),
        ("chat", {"message": "x" * 5_000_000}, "at most 1,000,000"),
        ("chat", {"message": "x", "agent": "nobody"}, "There is no agent 'nobody'; there are: "),
        ("chat", {"message": "x", "agent": "droid", "model": "no-model"}, "model"),
        ("chat", {"message": "x", "agent": "droid", "model": "gemini-1.5-flash"}, "model"),
        ("chat", {"message": "x", "session_id": "no-id"}, "session_id"),
        ("chat", {"message": "x", "session_id": "00000000-0000-7000-8000-000000000000"}, "session"),
        ("chat", {"message": "x", "wait_seconds": -1}, "between 0 and 240"),
        ("chat", {"message": "x", "wait_seconds": 241}, "between 0 and 240"),
        ("chat", {"message": "x", "temperature": -0.1}, "between 0 and 2"),
        ("chat", {"message": "x", "max_tokens": 0}, "at least 1"),
        ("chat", {"message": "x", "agnet": "droid"}, "no argument 'agnet'"),
        ("get_turn", {"turn_id": "00000000-0000-7000-8000-000000000000"}, "turn"),
        ("cancel_turn", {"turn_id": "no-id"}, "turn_id"),
        ("get_transcript", {"session_id": "00000000-0000-7000-8000-000000000000"}, "session"),
        ("get_health", {"agent": "nobody"}, "There is no agent 'nobody'; there are: "),
        ("list_models", {"agent": "nobody"}, "There is no agent 'nobody'; there are: "),
        ("list_sessions", {"cursor": "forged"}, "cursor"),
        ("list_agents", {"cursor": "AAAA"}, "cursor"),
    ],
)
async def test_what_the_model_can_mend_is_an_error_in_words(
    tool: str, arguments: dict[str, object], said: str, edge_home: Path
) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert said in text_of(result)
        assert edge.peer.exchanges == [] or not any(e.path.endswith("completions") for e in edge.peer.exchanges)


async def test_a_busy_session_names_the_turn_to_wait_for(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        message = f"{edge.tag} [[waits]]"
        running = fields_of(await call(client, "chat", agent="droid", message=message, wait_seconds=0))
        refused = await call(client, "chat", session_id=running["session_id"], message="another")
        assert refused.is_error
        assert str(running["turn_id"]) in text_of(refused)


@pytest.mark.parametrize("link", LINKS)
async def test_an_unknown_tool_is_a_protocol_error_that_names_the_tools(link: Link, edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        with pytest.raises(MCPError) as caught:
            await call(client, "chta")
        assert caught.value.error.code == INVALID_PARAMS
        assert "get_turn" in caught.value.error.message


class BrokenServices:
    """Fails in a way that nobody expects."""

    def find(self) -> None:
        """Nothing is up."""

    async def services(self) -> Services:
        """Fail."""
        raise RuntimeError("secret-path /srv/hidden")


@pytest.mark.parametrize("link", LINKS)
async def test_what_nobody_expects_is_logged_once_and_tells_nothing(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(create_server(BrokenServices(), McpOptions()), link) as client:
        result = await call(client, "chat", message="x")
        with pytest.raises(MCPError) as caught:
            await client.list_resources()
    assert result.is_error
    assert "request id" in text_of(result)
    assert "secret" not in text_of(result) + caught.value.error.message
    records = [record for record in caplog.records if record.name == "agentapi_mcp.base.log_context"]
    assert [record.message for record in records] == ["tool_failed", "request_failed"]
    for record, shown in zip(records, (text_of(result), caught.value.error.message), strict=True):
        assert record.exc_info
        assert record.__dict__["request_id"] in shown
