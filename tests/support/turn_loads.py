"""A load of turns on replicas while what they depend on goes away and comes back, and what became of each turn."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import cast
from uuid import uuid4

import asyncpg
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.support.peers.openai import OpenAIPeer

WAIT = timedelta(seconds=60)
ASKERS = 3  # for each replica


@dataclass
class Told:
    """What the callers of turns were told: each answer by its message, and why calls were refused."""

    answers: dict[str, Turn] = field(default_factory=dict[str, Turn])
    refusals: list[str] = field(default_factory=list[str])

    async def ask(self, services: Services, message: str) -> None:
        """Ask until there is an answer, as a client with a key does."""
        request = ChatRequest(message=message, agent="droid", idempotency_key=uuid4().hex)
        while message not in self.answers:
            try:
                turn = await services.turns.chat(services.principal, request, wait=WAIT)
            except StoreError as exc:
                self.refusals.append(str(exc))
                continue
            if turn.status.is_final:
                self.answers[message] = turn

    async def ask_until(self, services: Services, done: asyncio.Event) -> None:
        """Ask one message after the other, the last of them after `done`."""
        is_last = False
        while not is_last:
            is_last = done.is_set()
            await self.ask(services, f"load {uuid4().hex}")


@asynccontextmanager
async def replica(url: str, home: Path, peer: OpenAIPeer, *, redis: str | None = None) -> AsyncGenerator[Services]:
    """Open a program on a database, perhaps with a Redis."""
    settings = Settings(
        home=home,
        database_url=SecretStr(url),
        redis_url=None if redis is None else SecretStr(redis),
        shutdown_grace_seconds=0,
    )
    environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    async with open_app(settings, environ) as app:
        yield await app.services_provider.services()


def asked_of(peer: OpenAIPeer) -> Counter[str]:
    """Count how often the provider was asked each message."""
    messages = (exchange.json["messages"] for exchange in peer.exchanges if exchange.path.endswith("completions"))
    return Counter(str(cast("list[dict[str, object]]", each)[-1]["content"]) for each in messages)


async def kept(url: str) -> list[tuple[str, str, str | None]]:
    """Read what a database has of each turn: its message, how it ended, and the reply."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT u.content AS message, t.status, a.content AS reply FROM agentapi.turns t "
            "JOIN public.chat_messages u ON u.id = t.user_message_id "
            "LEFT JOIN public.chat_messages a ON a.id = t.assistant_message_id"
        )
    finally:
        await connection.close()
    return [(row["message"], row["status"], row["reply"]) for row in rows]


async def answer_through(
    replicas: Sequence[Services], peer: OpenAIPeer, steps: Steps, fault: Callable[[], Awaitable[object]]
) -> Told:
    """Put the replicas under load, with a turn in the middle of its answer on each, while the fault is done."""
    told, done = Told(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number, services in enumerate(replicas):
            held = f"held {number} [[slow]] [[chunks3]]"
            group.create_task(told.ask(services, held))
            await peer.received(content=held)
            for _ in range(ASKERS):
                group.create_task(told.ask_until(services, done))
        await peer.received(number=10, content="load")
        steps.release(1)
        await fault()
        steps.release(100)
        await peer.received(number=len(peer.exchanges) + 10)
        done.set()
    return told


async def check_each_answered_once(told: Told, peer: OpenAIPeer, url: str) -> None:
    """Check that each message has one turn, which is completed with what its caller was told, and was asked once."""
    rows = [row for row in await kept(url) if row[0] in told.answers]
    assert {turn.status for turn in told.answers.values()} == {TurnStatus.COMPLETED}
    assert {message: ("completed", turn.reply) for message, turn in told.answers.items()} == {
        message: (status, reply) for message, status, reply in rows
    }
    assert len(rows) == len(told.answers) > 10
    assert set(asked_of(peer).values()) == {1}
