"""Update notifications in both protocol eras."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from mcp import Client
from mcp.client.subscriptions import ResourcesListChanged as ListChanged
from mcp.client.subscriptions import ResourceUpdated as Updated
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
)

from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.subscriptions import Throttle, events_of
from agentapi_mcp.testing.http import Steps
from tests.support.connect import Edge, call, connect, fields_of, open_edge, subscribe_resource, unsubscribe_resource
from tests.support.peers.openai import OpenAIPeer

SESSION = SessionId(UUID(int=3))
NOBODYS = "agentapi://chat/sessions/00000000-0000-7000-8000-000000000000/transcript"


class Heard:
    """What a 2025-era client was told."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: object) -> None:
        """Take a message."""
        if isinstance(message, ResourceUpdatedNotification):
            await self._queue.put(message.params.uri)
        elif isinstance(message, ResourceListChangedNotification):
            await self._queue.put("list")

    async def until(self, told: str) -> list[str]:
        """Wait for this, and return what came before it: a catalogue that was written at the start changes the list, too."""
        before: list[str] = []
        while (heard := await self._queue.get()) != told:
            before.append(heard)
        return before


async def run_on(client: Client, edge: Edge) -> dict[str, object]:
    return fields_of(
        await call(client, "chat", agent="droid", message=f"{edge.tag} [[slow]] [[chunks1]]", wait_seconds=0)
    )


async def expect_event(event: object, events: AsyncIterator[object]) -> None:
    """Read events up to this one; fail when they end before it."""
    before: list[object] = []
    async for heard in events:
        if heard == event:
            return
        before.append(heard)
    pytest.fail(f"{event} did not come; there were {before}")


async def test_a_listener_hears_of_its_transcript_and_of_new_sessions(edge_home: Path) -> None:
    steps = Steps()
    async with open_edge(edge_home, OpenAIPeer(pace=steps)) as edge, connect(edge.server, "stdio-2026") as client:
        turn = await run_on(client, edge)
        uri = str(turn["transcript_uri"])
        async with client.listen(resource_subscriptions=[uri], resources_list_changed=True) as events:
            steps.release()
            await expect_event(Updated(uri), events)
            await call(client, "chat", agent="guide", message=edge.tag)
            await expect_event(ListChanged(), events)


async def test_a_2025_client_hears_of_its_transcript_and_of_new_sessions(edge_home: Path) -> None:
    steps, heard = Steps(), Heard()
    async with (
        open_edge(edge_home, OpenAIPeer(pace=steps)) as edge,
        connect(edge.server, "stdio-2025", message_handler=heard) as client,
    ):
        turn = await run_on(client, edge)
        assert await heard.until("list") == []
        uri = str(turn["transcript_uri"])
        await subscribe_resource(client, uri)
        steps.release()
        assert set(await heard.until(uri)) <= {"list"}
        await unsubscribe_resource(client, uri)
        await call(client, "chat", session_id=turn["session_id"], message="again [[chunks1]]")
        await call(client, "chat", agent="guide", message=edge.tag)
        assert uri not in await heard.until("list")


async def test_who_may_not_read_may_not_listen(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        catalogue = "agentapi://catalog/agents"
        async with client.listen(resource_subscriptions=[NOBODYS, "file:///etc/passwd", catalogue]) as events:
            assert events.honored.resource_subscriptions == [catalogue]


async def test_who_may_not_read_may_not_subscribe(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2025") as client:
        with pytest.raises(MCPError) as caught:
            await subscribe_resource(client, NOBODYS)
        assert caught.value.error.code == INVALID_PARAMS
        assert caught.value.error.data == {"uri": NOBODYS}


async def test_a_transcript_is_watched_by_the_uri_that_its_changes_are_told_by(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        uri = str(fields_of(await call(client, "chat", message="hi", agent="guide"))["transcript_uri"])
        session_id = uri.split("/")[-2]
        others = [f"{uri}?cursor=x", uri.replace(session_id, session_id.upper()), uri.replace("-", "")]
        async with client.listen(resource_subscriptions=[*others, uri, f"{uri}.json"]) as events:
            assert events.honored.resource_subscriptions == [uri, f"{uri}.json"]


async def test_the_number_of_watched_resources_is_limited(edge_home: Path) -> None:
    options = McpOptions(max_watched=1)
    async with open_edge(edge_home, OpenAIPeer(), options) as edge:
        async with connect(edge.server, "stdio-2026") as client:
            with pytest.raises(MCPError) as caught:
                async with client.listen(resource_subscriptions=["a://1", "a://2"]):
                    pass
            assert caught.value.error.code == INVALID_PARAMS
            session_uri = str(fields_of(await call(client, "chat", message="hi", agent="guide"))["transcript_uri"])
        async with connect(edge.server, "stdio-2025") as client:
            await subscribe_resource(client, session_uri)
            await subscribe_resource(client, session_uri)
            with pytest.raises(MCPError):
                await subscribe_resource(client, "agentapi://catalog/agents")


async def test_the_number_of_open_streams_is_limited_and_a_closed_one_makes_room(edge_home: Path) -> None:
    opening = open_edge(edge_home, OpenAIPeer(), capacities={Resource.STREAMS: 1})
    async with opening as edge, connect(edge.server, "stdio-2026") as client:
        async with client.listen(resources_list_changed=True):
            with pytest.raises(MCPError) as caught:
                async with client.listen(resources_list_changed=True):
                    pass
            assert caught.value.error.data == {"code": "limit_exceeded", "retryable": True, "retry_after_seconds": 5}
        async with client.listen(resources_list_changed=True):
            pass


@pytest.mark.parametrize("kind", [SignalKind.SESSION_CHANGED, SignalKind.SESSIONS_CHANGED, SignalKind.ENDED])
def test_a_changed_session_updates_both_transcripts_and_only_a_changed_list_the_list(kind: SignalKind) -> None:
    events = events_of(Signal(kind, session_id=SESSION))
    assert ResourceUpdated(f"agentapi://chat/sessions/{SESSION}/transcript") in events
    assert ResourceUpdated(f"agentapi://chat/sessions/{SESSION}/transcript.json") in events
    assert (ResourcesListChanged() in events) is (kind is SignalKind.SESSIONS_CHANGED)


def test_a_changed_catalogue_updates_its_list() -> None:
    changed = [ResourcesListChanged(), ResourceUpdated("agentapi://catalog/agents")]
    assert events_of(Signal(SignalKind.CATALOGUE_CHANGED)) == changed


async def test_repetitions_wait_their_turn_and_the_last_is_not_lost() -> None:
    heard, twice = list[ServerEvent](), asyncio.Event()

    def hear(event: ServerEvent) -> None:
        heard.append(event)
        if heard.count(ResourceUpdated("a")) == 2:
            twice.set()

    throttle = Throttle(timedelta(milliseconds=20), hear)
    for _ in range(50):
        throttle.offer(ResourceUpdated("a"))
    throttle.offer(ResourceUpdated("b"))
    assert heard == [ResourceUpdated("a"), ResourceUpdated("b")]
    await twice.wait()
    assert heard == [ResourceUpdated("a"), ResourceUpdated("b"), ResourceUpdated("a")]
    throttle.close()
