"""What takes long to measure, and is not for CI: a large database, and a server that has answered for hours."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
from benchmarks.client import Client, connect, fields
from benchmarks.results import Result, milliseconds
from benchmarks.servers import Bench, median, new_home, now, product
from benchmarks.serving import chat

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres

_CALLS = 150
_TURNS = 10_000
# A tenth of all is the measured user's. Every user message with its answer is a turn of the user's own.
_SEED = """
INSERT INTO public.profiles (id) SELECT gen_random_uuid() FROM generate_series(1, $1 / 10);
WITH owners AS (
    SELECT array_agg(id) AS ids FROM public.profiles WHERE id <> (SELECT user_id FROM agentapi.local_identity)
)
INSERT INTO public.chat_sessions (id, user_id, org_id, title, created_at, last_message_at)
SELECT gen_random_uuid(),
       CASE WHEN n % 10 = 0 THEN l.user_id ELSE o.ids[1 + n % array_length(o.ids, 1)] END,
       CASE WHEN n % 10 = 0 THEN l.org_id END,
       'session ' || n, at, at + interval '100 minutes'
  FROM generate_series(1, $1) n, agentapi.local_identity l, owners o,
       LATERAL (SELECT now() - interval '300 days' + n * interval '10 minutes' AS at) t;
INSERT INTO public.chat_messages (session_id, role, content, metadata, created_at)
SELECT s.id, CASE WHEN m % 2 = 1 THEN 'user' ELSE 'assistant' END,
       'message ' || m || ' of ' || s.title || repeat(' and so on', 20), '{}', s.created_at + m * interval '1 minute'
  FROM public.chat_sessions s, generate_series(1, 100) m;
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_name, backend,
    model_name, fingerprint, status, end_reason, created_at, ended_at, delivered_at)
SELECT gen_random_uuid(), s.id, s.user_id, s.org_id, u.id, a.id, 'bench', 'openai', 'instant', uuid_send(u.id),
       'completed', 'answered', u.created_at, a.created_at, a.created_at
  FROM public.chat_sessions s
  JOIN public.chat_messages u ON u.session_id = s.id AND u.role = 'user'
  JOIN public.chat_messages a ON a.session_id = s.id AND a.created_at = u.created_at + interval '1 minute'
 WHERE s.org_id IS NOT NULL;
VACUUM ANALYZE
"""


async def million(bench: Bench) -> list[Result]:
    """Call servers on 10,000 and on 1,000,000 messages by turns, each as the user who owns a tenth of them."""
    took: dict[str, dict[int, list[float]]] = {name: {100: [], 10_000: []} for name in _CALLED}
    async with AsyncExitStack() as stack:
        clients: dict[int, Client] = {}
        for sessions in (100, 10_000):
            home = stack.enter_context(new_home(bench.provider))
            server = stack.enter_context(product(home))
            clients[sessions] = await stack.enter_async_context(connect(server.url))
            await _seed(home, sessions)
        for number in range(_CALLS):
            for name, call in _CALLED.items():
                for sessions, client in clients.items():
                    started = now()
                    await call(client, number)
                    took[name][sessions].append(now() - started)
    return [_grown(name, median(times[100]), median(times[10_000])) for name, times in took.items()]


async def steady(bench: Bench) -> list[Result]:
    """Answer 10,000 turns in a row, in sessions of ten, and look at the memory after each thousand."""
    memory = list[float]()
    async with connect(bench.product.url) as client:
        session: dict[str, Any] = {}
        for number in range(1, _TURNS + 1):
            session = {"session_id": (await chat(client, **session))["session_id"]} if number % 10 else {}
            if number % 1000 == 0:
                memory.append(bench.product.memory())
    most = max(memory[1:]) - memory[0]
    measured = f"{most:+.1f} MB (" + ", ".join(f"{megabytes:.0f}" for megabytes in memory) + ")"
    return [Result("10,000 turns in a row: memory after the first 1,000", measured, "≤ 5 MB", most <= 5)]


async def _seed(home: Path, sessions: int) -> None:
    postgres = EmbeddedPostgres(home)
    urls = await asyncio.to_thread(postgres.ensure)
    connection = await asyncpg.connect(urls.owner_url, command_timeout=1800)
    try:
        for statement in _SEED.replace("$1", str(sessions)).split(";\n"):
            await connection.execute(statement)
    finally:
        await connection.close()
        await asyncio.to_thread(postgres.release)


_LISTED: dict[Client, list[str]] = {}


async def _chat(client: Client, number: int) -> None:
    """Go on in an old session."""
    await chat(client, session_id=await _session(client, number), wait_seconds=60)


async def _list_sessions(client: Client, number: int) -> None:
    del number
    await client.call("list_sessions")


async def _get_transcript(client: Client, number: int) -> None:
    await client.call("get_transcript", session_id=await _session(client, number))


async def _session(client: Client, number: int) -> str:
    """Return one of the user's newest sessions; looked up once, in the first call that needs it."""
    if client not in _LISTED:
        listed = fields(await client.call("list_sessions"))["sessions"][:10]
        _LISTED[client] = [str(session["session_id"]) for session in listed]
    return _LISTED[client][number % len(_LISTED[client])]


_CALLED: dict[str, Callable[[Client, int], Awaitable[None]]] = {
    "chat": _chat,
    "list_sessions": _list_sessions,
    "get_transcript": _get_transcript,
}


def _grown(name: str, small: float, large: float) -> Result:
    ratio = large / small
    measured = f"{ratio:.2f} × ({milliseconds(small)} → {milliseconds(large)})"
    return Result(f"`{name}` with 1,000,000 messages against 10,000: p50", measured, "≤ 1.3 ×", ratio <= 1.3)
