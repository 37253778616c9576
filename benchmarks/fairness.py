"""What one user's calls take while a thousand clients of another user take all that they can."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import asyncpg
from benchmarks.client import Client, connect
from benchmarks.results import Result, milliseconds
from benchmarks.servers import PRODUCT, ROOT, Bench, environment, median, new_home, now, percentile, product
from benchmarks.serving import chat

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres

_CLIENTS, _CALLS = 1000, 40
_BOUND = 2.0  # times as long as on an idle server
_CROWDS: dict[str, tuple[str, dict[str, object]]] = {
    "chat": ("chat", {"agent": "bench", "model": "instant", "message": "x"}),
    "wait for answers": ("chat", {"agent": "bench", "model": "half-second", "message": "x"}),
    "search": ("list_sessions", {"query": "nowhere"}),
    "list agents": ("list_agents", {}),
}


@dataclass(frozen=True)
class _Users:
    url: str
    light: str
    heavy: str


async def fairness(bench: Bench) -> list[Result]:
    """Chat as one user: alone, and beside the crowd of another, which does each thing in turn."""
    async with AsyncExitStack() as stack:
        users = await stack.enter_async_context(_serve(bench))
        client = await stack.enter_async_context(connect(users.url, users.light))
        await _chat_times(client)
        alone, results = await _chat_times(client), list[Result]()
        for what, (tool, arguments) in _CROWDS.items():
            took, counts = await _beside(client, users, tool, arguments)
            ratio = median(took) / median(alone)
            said = f"p50 {ratio:.1f} × ({milliseconds(median(alone))} → {milliseconds(median(took))})"
            said += f", p95 {milliseconds(percentile(took, 95))}; they: {counts['answered']:,} answered, "
            said += f"{counts['refused']:,} refused"
            row = f"a chat of one user while {_CLIENTS:,} clients of another {what}"
            results.append(Result(row, said, f"≤ {_BOUND:.0f} ×", ratio <= _BOUND))
    return results


async def _chat_times(client: Client) -> list[float]:
    times: list[float] = []
    for _ in range(_CALLS):
        started = now()
        await chat(client)
        times.append(now() - started)
    return times


async def _beside(
    client: Client, users: _Users, tool: str, arguments: dict[str, object]
) -> tuple[list[float], dict[str, int]]:
    words = [
        sys.executable,
        "-m",
        "benchmarks.crowd",
        users.url,
        users.heavy,
        str(_CLIENTS),
        tool,
        json.dumps(arguments),
    ]
    crowd = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    await asyncio.sleep(3)  # noqa: TID251  # until all of them are there
    took = await _chat_times(client)
    said, _ = await crowd.communicate(b"")
    return took, json.loads(said)


@asynccontextmanager
async def _serve(bench: Bench) -> AsyncGenerator[_Users]:
    """Run `serve` with two users of two organisations, each with a personal token."""
    async with AsyncExitStack() as stack:
        home = stack.enter_context(new_home(bench.provider))
        env = environment(home, AGENTAPI_POSTGRES_LINGER_SECONDS="30")
        subprocess.run([*PRODUCT, "migrate"], env=env, check=True, capture_output=True)  # noqa: ASYNC221, S603  # ours
        postgres = EmbeddedPostgres(home, linger=timedelta(seconds=5))
        urls = await asyncio.to_thread(postgres.ensure)
        stack.push_async_callback(asyncio.to_thread, postgres.release)
        owner = await asyncpg.connect(urls.owner_url)
        stack.push_async_callback(owner.close)
        light, heavy = [await _token(owner, env, name) for name in ("light", "heavy")]
        running = stack.enter_context(product(home, "--require-token"))
        yield _Users(running.url, light, heavy)


async def _token(owner: "asyncpg.Connection[asyncpg.Record]", env: dict[str, str], name: str) -> str:
    user, org = str(uuid4()), str(uuid4())
    await owner.execute("INSERT INTO public.profiles (id) VALUES ($1)", user)
    await owner.execute("INSERT INTO public.organizations (id, name) VALUES ($1, $2)", org, name)
    await owner.execute(
        "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'member')", org, user
    )
    words = [*PRODUCT, "tokens", "create", name, "--user", user, "--org", org]
    made = subprocess.run(words, env=env, check=True, capture_output=True, text=True)  # noqa: ASYNC221, S603  # ours
    return made.stdout.split()[0]
