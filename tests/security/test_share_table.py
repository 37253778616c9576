"""The table of shares, walked: of each resource one user takes all they can, and another user's chat is accepted."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, LiteralString, cast

import asyncpg
import httpx2
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from agentapi_mcp.app.database import pool_size
from agentapi_mcp.base.errors import AgentApiError, LimitExceededError
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.session_facts import NewInteraction, Rating, Report
from agentapi_mcp.core.identity.shares import SHARES, Resource, most_rows
from agentapi_mcp.core.keys.models import KeyRequest
from agentapi_mcp.edges.mcp.server.resources import CATALOGUE_URI
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.connections import most_at_once, reserved_of
from agentapi_mcp.stores.postgres.key_requests import PostgresKeyRequests
from tests.security.test_streams import ACCEPTS, INITIALIZE, LISTEN, opened
from tests.support.connect import call, fields_of, subscribe_resource, text_of
from tests.support.said import rate_many, record_many
from tests.support.tenants import Tenants, tenants

# Of one process, so small that a test takes all of it. Of the others there is more than enough.
ROOM = dict.fromkeys(Resource, 16) | {
    Resource.REQUESTS: 128,
    Resource.OPEN_REQUESTS: 64,
    Resource.RUNNING_BYTES: 1600,
    Resource.BODY_BYTES: 64_000,
}
PLENTY = {resource: 100_000 for resource, share in SHARES.items() if share.capacity is not None}
POOL = pool_size(Settings())
_MORE_THAN_THERE_IS = 1000


async def _by_requests(here: Tenants, http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    """Send requests until one is refused, and return why."""
    for _ in range(_MORE_THAN_THERE_IS):
        answer = await http.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            assert int(answer.headers["retry-after"]) > 0
            return answer.text
    return ""


async def _by_pages(here: Tenants, http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    for _ in range(_MORE_THAN_THERE_IS):
        answer = await http.get(f"{here.place.base}/accounts/sign-in?issuer=x")
        if answer.status_code != HTTPStatus.TOO_MANY_REQUESTS:
            answer = await http.get(f"{here.place.base}/keys/new?request=x")
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            assert int(answer.headers["retry-after"]) > 0
            return answer.text
    return ""


async def _by_half_sent_bodies(here: Tenants, _http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    """Send half of each body until one is refused, and return why."""
    url = httpx2.URL(here.place.mcp)
    head = f"POST {url.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {here.token('abe')}\r\n"
    head += "content-type: application/json\r\ncontent-length: 8000\r\n\r\n"
    readers = list[asyncio.StreamReader]()
    for _ in range(ROOM[Resource.BODY_BYTES] // 4000 + 1):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        stack.callback(writer.close)
        writer.write(head.encode() + b" " * 4000)
        readers.append(reader)
    answers = [asyncio.ensure_future(reader.read()) for reader in readers]
    refused, others = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        stack.callback(other.cancel)
    answer = refused.pop().result().decode()
    assert answer.startswith("HTTP/1.1 429")
    return answer


def _by_streams(link: str) -> "Take":
    async def take(here: Tenants, http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
        for _ in range(_MORE_THAN_THERE_IS):
            answer = await http.send(await opened(here, http, link), stream=True)
            stack.push_async_callback(answer.aclose)
            if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                assert int(answer.headers["retry-after"]) > 0
                return (await answer.aread()).decode()
        return ""

    return take


async def _by_subscriptions(here: Tenants, _http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    client = await stack.enter_async_context(here.client("abe", "http-2026"))
    try:
        for number in range(_MORE_THAN_THERE_IS):
            await stack.enter_async_context(client.listen(resource_subscriptions=[f"agentapi://nothing/{number}"]))
    except MCPError as exc:
        return exc.error.message
    return ""


async def _by_subscriptions_without_a_stream(here: Tenants, http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    watched = {"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": CATALOGUE_URI}}
    for _ in range(_MORE_THAN_THERE_IS):
        begun = await http.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        answer = await http.post(here.place.mcp, json=watched, headers=ACCEPTS | session)
        if "error" in answer.text:
            return answer.text
    return ""


async def _by_subscriptions_over_sse(here: Tenants, _http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    try:
        for _ in range(_MORE_THAN_THERE_IS):
            client = await stack.enter_async_context(here.client("abe", "sse-2025"))
            await subscribe_resource(client, CATALOGUE_URI)
    except MCPError as exc:
        return exc.error.message
    return ""


def _by_waiting_calls(link: str) -> "Take":
    async def take(here: Tenants, _http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
        client = await stack.enter_async_context(here.client("abe", link))
        turn = fields_of(await call(client, "chat", agent="droid", message="hi [[slow]]", wait_seconds=0))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        answers = asyncio.Queue[str]()

        async def wait() -> None:
            try:
                answer = text_of(await call(client, "get_turn", turn_id=turn["turn_id"], wait_seconds=25))
            except MCPError as exc:
                answer = exc.error.message
            answers.put_nowait(answer)

        for _ in range(2 * ROOM[Resource.OPEN_REQUESTS]):
            stack.callback(group.create_task(wait()).cancel)
        return await answers.get()

    return take


async def _by_waiting_calls_over_sse(here: Tenants, http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    """Send one call after the other, each answered with 202 at once; the SDK's client would end at the refusal."""
    abe = here.members["abe"].principal
    turn = await here.services.turns.chat(abe, ChatRequest(message="[[slow]]", agent="droid"), wait=timedelta(0))
    stream = await http.send(await opened(here, http, "sse"), stream=True)
    stack.push_async_callback((lines := cast("AsyncGenerator[str]", stream.aiter_lines())).aclose)
    while not (line := await anext(lines)).startswith("data: "):
        pass
    messages = f"{here.place.base}{line.removeprefix('data: ')}"
    waiting = {"name": "get_turn", "arguments": {"turn_id": str(turn.id), "wait_seconds": 25}}
    ready: dict[str, object] = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    asked: dict[str, object] = {"jsonrpc": "2.0", "method": "tools/call", "params": waiting}
    calls = ({**asked, "id": number} for number in range(2, _MORE_THAN_THERE_IS))
    for message in (INITIALIZE, ready, *calls):
        answer = await http.post(messages, json=message)
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return answer.text
    return ""


def _by_calls(call_once: Callable[[Client, int], Awaitable[CallToolResult]]) -> "Take":
    async def take(here: Tenants, _http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
        client = await stack.enter_async_context(here.client("abe", "http-2026"))
        for number in range(_MORE_THAN_THERE_IS):
            answer = await call_once(client, number)
            if answer.is_error:
                return text_of(answer)
        return ""

    return take


async def _by_conversations(here: Tenants, http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    owner = await asyncpg.connect(here.owner_url)
    try:
        await owner.execute(
            'UPDATE public.organizations SET settings = \'{"limits": {"max_conversations": 4}}\' WHERE id = $1',
            here.members["abe"].org_id,
        )
    finally:
        await owner.close()
    chats = _by_calls(lambda client, number: call(client, "chat", agent="guide", message=f"{number}"))
    return await chats(here, http, stack)


async def _by_clients(here: Tenants, http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    for number in range(most_rows(Resource.CLIENTS) + 3):
        client = {"io.modelcontextprotocol/clientInfo": {"name": f"{number}", "version": "1"}}
        meta: dict[str, object] = {**cast("Any", LISTEN)["params"]["_meta"], **client}
        called: dict[str, object] = {"name": "list_agents", "arguments": {}, "_meta": meta}
        asked: dict[str, object] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
        said = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "list_agents"}
        answer = await http.post(here.place.mcp, json=asked, headers=ACCEPTS | said)
        assert "result" in answer.text, answer.text
    return await _rows_of(here, Resource.CLIENTS, _ROWS + "AND mcp_state ? 'protocol' AND NOT mcp_state ? 'transport'")


async def _by_sessions(here: Tenants, http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    for _ in range(most_rows(Resource.CLIENT_SESSIONS) + 3):
        assert (await http.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)).status_code == HTTPStatus.OK
    return await _rows_of(here, Resource.CLIENT_SESSIONS, _ROWS + "AND mcp_state ->> 'transport' = 'http'")


async def _by_links(here: Tenants, _http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    abe, store = here.members["abe"], PostgresKeyRequests(here.database)
    for number in range(most_rows(Resource.KEY_LINKS) + 3):
        request = KeyRequest(
            token_sha256=number.to_bytes(32, "big"),
            user_id=abe.user_id,
            org_id=abe.org_id,
            issuer="x",
            provider="openrouter",
            expires_at=datetime.now(UTC) + timedelta(minutes=15),
        )
        await store.add(request)
    return await _rows_of(here, Resource.KEY_LINKS, "SELECT count(*) FROM agentapi.key_requests WHERE user_id = $1")


async def _by_tokens(here: Tenants, _http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    try:
        for number in range(most_rows(Resource.TOKENS) + 3):
            await here.services.personal_tokens.create(here.members["abe"].principal, f"{number}")
    except LimitExceededError as exc:
        return str(exc)
    return ""


async def _by_tasks(here: Tenants, _http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    abe, services = here.members["abe"].principal, here.services
    request = ChatRequest(message="hi", agent="guide")
    turn = await services.turns.chat(abe, request, wait=timedelta(seconds=25))
    first = await services.tasks.create(abe, turn, request.sent)
    owner = await asyncpg.connect(here.owner_url)
    try:
        await owner.execute(
            "INSERT INTO agentapi.tasks (id, turn_id, user_id, org_id, joined, has_key, in_session, expires_at) "
            "SELECT 'one of many tasks ' || 1000 + n, turn_id, user_id, org_id, false, false, false, expires_at "
            "FROM agentapi.tasks, generate_series(1, $2) AS n WHERE id = $1",
            first.id,
            most_rows(Resource.TASKS),
        )
    finally:
        await owner.close()
    last = await services.tasks.create(abe, turn, request.sent)
    assert await services.tasks.list_(abe, [first.id]) == ()
    assert (await services.tasks.get(abe, last.id)).turn.id == turn.id
    return await _rows_of(here, Resource.TASKS, "SELECT count(*) FROM agentapi.tasks WHERE user_id = $1")


async def _by_ratings(here: Tenants, _http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    abe, services = here.members["abe"].principal, here.services
    request = ChatRequest(message="hi", agent="guide")
    turn = await services.turns.chat(abe, request, wait=timedelta(seconds=25))
    owner = await asyncpg.connect(here.owner_url)
    try:
        await rate_many(owner, turn.id, most_rows(Resource.RATINGS))
    finally:
        await owner.close()
    try:
        await services.facts.rate_turn(abe, str(turn.id), Rating(rating=5))
    except LimitExceededError as exc:
        return str(exc)
    return ""


async def _by_recorded(here: Tenants, _http: httpx2.AsyncClient, _stack: AsyncExitStack) -> str:
    abe = here.members["abe"].principal
    owner = await asyncpg.connect(here.owner_url)
    try:
        await record_many(owner, abe.user_id, abe.org_id, most_rows(Resource.RECORDED))
    finally:
        await owner.close()
    try:
        await here.services.facts.record(abe, NewInteraction(title="one more", report=Report()))
    except LimitExceededError as exc:
        return str(exc)
    return ""


async def _by_locked_sessions(here: Tenants, _http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    abe, sessions = here.members["abe"].principal, here.services.sessions
    turn = await here.services.turns.chat(abe, ChatRequest(message="hi", agent="guide"), wait=timedelta(seconds=25))
    lock = "SELECT FROM public.chat_sessions WHERE user_id = $1 FOR UPDATE"
    return await _by_locked_rows(here, stack, lock, lambda: sessions.rename(abe, str(turn.session_id), "other"))


async def _by_locked_clients(here: Tenants, http: httpx2.AsyncClient, stack: AsyncExitStack) -> str:
    begun = await http.post(here.place.mcp, json=INITIALIZE, headers=ACCEPTS)
    session = {"mcp-session-id": begun.headers["mcp-session-id"]}
    lock = "SELECT FROM public.mcp_sessions WHERE user_id = $1 FOR UPDATE"
    return await _by_locked_rows(here, stack, lock, lambda: http.delete(here.place.mcp, headers=ACCEPTS | session))


async def _by_locked_rows(
    here: Tenants, stack: AsyncExitStack, lock: LiteralString, call_once: Callable[[], Awaitable[object]]
) -> str:
    """Wait on all connections that one user gets for rows that somebody has locked; the others wait for those."""
    owner = await asyncpg.connect(here.owner_url)
    stack.push_async_callback(owner.close)
    stack.push_async_callback((locking := owner.transaction()).rollback)
    await locking.start()
    await owner.execute(lock, here.members["abe"].user_id)
    group = await stack.enter_async_context(asyncio.TaskGroup())

    async def call_again() -> None:
        while True:
            with suppress(AgentApiError):  # in the end, whoever waits is told so
                await call_once()

    for _ in range(20):
        stack.callback(group.create_task(call_again()).cancel)
    watching = await asyncpg.connect(here.owner_url)
    stack.push_async_callback(watching.close)
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    while await watching.fetchval(waiting) < most_at_once(POOL - reserved_of(POOL)):
        pass
    return SHARES[Resource.DATABASE].what


_ROWS: LiteralString = "SELECT count(*) FROM public.mcp_sessions WHERE user_id = $1 "


async def _rows_of(here: Tenants, resource: Resource, statement: LiteralString) -> str:
    """Return the words of the table if there are as many rows of Abe's as there may be at most."""
    async with here.database.as_system("test") as connection:
        rows = await connection.fetchval(statement, here.members["abe"].user_id)
    return SHARES[resource].what if rows == most_rows(resource) else f"{rows} rows"


Take = Callable[[Tenants, httpx2.AsyncClient, AsyncExitStack], Awaitable[str]]
# How one user takes all they can of each resource; what refuses them says so in the words of the table.
TAKES: Mapping[Resource, Take] = {
    Resource.REQUESTS: _by_requests,
    Resource.SEARCHES: _by_calls(lambda client, _: call(client, "list_sessions", query="x")),
    Resource.KEY_PAGES: _by_pages,
    Resource.OPEN_REQUESTS: _by_streams("sse"),
    Resource.BODY_BYTES: _by_half_sent_bodies,
    Resource.STREAMS: _by_streams("http-2025"),
    Resource.SUBSCRIPTIONS: _by_subscriptions,
    Resource.RUNNING_TURNS: _by_calls(
        lambda client, number: call(client, "chat", agent="droid", message=f"{number} [[slow]]", wait_seconds=0)
    ),
    Resource.RUNNING_BYTES: _by_calls(
        lambda client, number: call(client, "chat", agent="droid", message=f"{number:100} [[slow]]", wait_seconds=0)
    ),
    Resource.DATABASE: _by_locked_sessions,
    Resource.CONVERSATIONS: _by_conversations,
    Resource.CLIENTS: _by_clients,
    Resource.CLIENT_SESSIONS: _by_sessions,
    Resource.KEY_LINKS: _by_links,
    Resource.TOKENS: _by_tokens,
    Resource.TASKS: _by_tasks,
    Resource.RATINGS: _by_ratings,
    Resource.RECORDED: _by_recorded,
}
# Further ways, which other transports and other statements have.
MORE: Mapping[str, tuple[Resource, Take]] = {
    "database by clients": (Resource.DATABASE, _by_locked_clients),
    "subscriptions of http-2025": (Resource.SUBSCRIPTIONS, _by_subscriptions_without_a_stream),
    "subscriptions of sse-2025": (Resource.SUBSCRIPTIONS, _by_subscriptions_over_sse),
    "calls of http-2026": (Resource.OPEN_REQUESTS, _by_waiting_calls("http-2026")),
    "calls of http-2025": (Resource.OPEN_REQUESTS, _by_waiting_calls("http-2025")),
    "calls of sse-2025": (Resource.OPEN_REQUESTS, _by_waiting_calls_over_sse),
}
WAYS = {str(resource): (resource, take) for resource, take in TAKES.items()} | MORE
# What an organisation bounds for itself keeps its own members out.
_OF_AN_ORGANISATION = (Resource.CONVERSATIONS,)


@pytest.mark.timeout(120)  # some take a thousand of a thing
@pytest.mark.parametrize(("resource", "take"), WAYS.values(), ids=WAYS)
async def test_who_takes_all_they_can_keeps_nobody_else_out(
    resource: Resource, take: Take, edge_home: Path, tmp_path: Path
) -> None:
    async with (
        tenants(
            edge_home,
            tmp_path,
            capacities={each: ROOM[each] if each is resource else room for each, room in PLENTY.items()},
        ) as here,
        here.http("abe") as http,
        AsyncExitStack() as stack,
    ):
        assert SHARES[resource].what in await take(here, http, stack)
        for name in ("bo",) if resource in _OF_AN_ORGANISATION else ("ann", "bo"):  # of the other one, and of both
            async with here.client(name, "http-2025") as client:
                answer = fields_of(await call(client, "chat", agent="guide", message="which agents are there?"))
                assert answer["status"] == "completed"


def test_every_resource_is_taken() -> None:
    assert set(TAKES) == set(Resource)
