"""A whole program with a Redis that is flushed, away, hung, full, or something else: turns go on and health tells."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.backends.events import TextDelta
from agentapi_mcp.core.backends.models import HealthStatus
from agentapi_mcp.core.conversations.models import Turn, TurnEnded, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.turn_follower import Progress, ProgressReport
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.redis.keys import KEYS
from agentapi_mcp.testing.http import Steps
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

WAIT = timedelta(seconds=20)
pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def program(home: Path, url: str, peer: OpenAIPeer, prefix: str = "") -> AsyncGenerator[Services]:
    """Open a program with a Redis."""
    settings = Settings(
        home=home,
        redis_url=SecretStr(url),
        redis_prefix=prefix,
        postgres_linger_seconds=20,
        shutdown_grace_seconds=0,
    )
    environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
    async with open_app(settings, environ) as app:
        yield await app.services_provider.services()


async def ask(services: Services, message: str, session: Turn | None = None) -> Turn:
    request = ChatRequest(message=message, agent="droid", session_id=session and str(session.session_id))
    turn = await services.turns.chat(services.principal, request, wait=WAIT)
    assert turn.status is TurnStatus.COMPLETED, turn.error
    services.turns.delivered(turn)  # as an edge says; or the next test that says the same would get this turn
    return turn


async def until_kept(valkey: Valkey, turn: Turn) -> None:
    """Wait until the session's history is in the cache, which is after the answer."""
    await asyncio.to_thread(wait_until, lambda: valkey.keys(f"chat:session:{turn.session_id}:messages"))


async def part(services: Services) -> tuple[HealthStatus, str]:
    """Tell how the part `redis` is."""
    report = await services.health.report(services.principal)
    return next((one.status, one.detail) for one in report.parts if one.name == "redis")


def messages_sent(peer: OpenAIPeer) -> list[str]:
    """Return what the provider was shown last."""
    asked = [exchange for exchange in peer.exchanges if exchange.path.endswith("completions")]
    return [str(message["content"]) for message in cast("list[dict[str, object]]", asked[-1].json["messages"])]


async def test_a_flush_in_mid_conversation_loses_nothing(edge_home: Path, valkey: Valkey) -> None:
    async with OpenAIPeer() as peer, program(edge_home, valkey.url, peer) as services:
        first = await ask(services, "the first thing")
        await until_kept(valkey, first)
        valkey.run("FLUSHALL")
        second = await ask(services, "the second thing", first)
        valkey.run("FLUSHALL")
        await ask(services, "the third thing", second)
        assert [said for said in messages_sent(peer) if "thing" in said] == [
            "the first thing",
            "the second thing",
            "the third thing",
        ]


async def test_every_key_is_in_the_table_and_has_a_lifetime(edge_home: Path, valkey: Valkey) -> None:
    async with OpenAIPeer() as peer, program(edge_home, valkey.url, peer, "ours:") as services:
        turn = await ask(services, "hello")
        await ask(services, "again", turn)
        await services.clients.preferences(services.principal, "desk")
        assert (await part(services))[0] is HealthStatus.HEALTHY
        await asyncio.to_thread(
            wait_until, lambda: valkey.keys("*agent:health*") and valkey.keys(f"*:{turn.session_id}")
        )
        keys = valkey.keys()
        patterns = [key.name("ours:", *3 * "*").split("*") for key in KEYS]
        for key in keys:
            assert any(key.startswith(parts[0]) and key.endswith(parts[-1]) for parts in patterns), key
            assert cast("int", valkey.run("TTL", key)) > 0, key
        state = json.loads(str(valkey.run("GET", f"ours:session:{turn.session_id}")))
        assert (state["agent"], state["user_id"]) == ("droid", str(turn.user_id))
        assert any("agent:health" in key for key in keys)
        assert any(key.startswith("ours:session:") and key.endswith("/desk") for key in keys)
        await services.sessions.delete(services.principal, str(turn.session_id))
        assert valkey.keys(f"*{turn.session_id}*") == []


async def test_one_that_is_down_at_start_and_comes_later_is_used_then(
    edge_home: Path, valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.stop()
    async with OpenAIPeer() as peer, program(edge_home, valkey.url, peer) as services:
        turn = await ask(services, "hello")
        status, detail = await part(services)
        assert status is HealthStatus.DEGRADED
        assert "cannot be reached" in detail
        assert "works on without" in detail
        valkey.start()
        await wait_until_well(services)
        await ask(services, "again", turn)
        await until_kept(valkey, turn)
    assert [record.message for record in caplog.records if record.message.startswith("redis_")] == [
        "redis_unavailable",
        "redis_back",
    ]


async def wait_until_well(services: Services) -> None:
    """Probe until it works; each probe asks the server itself."""
    async with asyncio.timeout(25):
        while (await part(services))[0] is not HealthStatus.HEALTHY:
            pass


async def test_one_that_goes_down_or_hangs_costs_a_turn_little(edge_home: Path, valkey: Valkey) -> None:
    async with OpenAIPeer() as peer, program(edge_home, valkey.url, peer) as services:
        turn = await ask(services, "hello")
        valkey.hang()
        async with asyncio.timeout(25):
            turn = await ask(services, "while it hangs", turn)
        assert "in time" in (await part(services))[1]
        assert await services.health.warnings(timedelta(seconds=25)) == ("redis",)
        valkey.go_on()
        await wait_until_well(services)
        turn = await ask(services, "while it is back", turn)
        valkey.stop()
        turn = await ask(services, "while it is down", turn)
        valkey.start()
        await wait_until_well(services)
        await ask(services, "at last", turn)
        assert [said for said in messages_sent(peer) if said.startswith(("hello", "while", "at"))] == [
            "hello",
            "while it hangs",
            "while it is back",
            "while it is down",
            "at last",
        ]


async def test_one_that_is_out_of_memory_is_told_and_recovers(edge_home: Path, valkey: Valkey) -> None:
    async with OpenAIPeer() as peer, program(edge_home, valkey.url, peer) as services:
        turn = await ask(services, "hello")
        valkey.run("CONFIG", "SET", "maxmemory", "1")
        turn = await ask(services, "while it is full", turn)
        assert "out of memory" in (await part(services))[1]
        valkey.run("CONFIG", "SET", "maxmemory", "0")
        assert (await part(services))[0] is HealthStatus.HEALTHY
        await ask(services, "again", turn)


async def test_a_read_only_replica_and_a_wrong_password_are_told(edge_home: Path, valkey: Valkey) -> None:
    async with OpenAIPeer() as peer:
        valkey.run("REPLICAOF", "127.0.0.1", "1")
        async with program(edge_home, valkey.url, peer) as services:
            await ask(services, "hello")
            assert "read-only replica" in (await part(services))[1]
        valkey.run("REPLICAOF", "NO", "ONE")
        valkey.run("CONFIG", "SET", "requirepass", "the-password")
        async with program(edge_home, valkey.url, peer) as services:
            await ask(services, "hello")
            _, detail = await part(services)
            assert "password" in detail
            assert "the-password" not in detail


async def test_something_that_is_no_redis_is_told(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        url = peer.openrouter_url.replace("http://", "redis://").partition("/api")[0]
        async with program(edge_home, url, peer) as services:
            await ask(services, "hello")
            status, detail = await part(services)
            assert status is HealthStatus.DEGRADED
            assert "works on without" in detail


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "127.0.0.1:6379", "redis://host:no-port"])
async def test_an_address_of_another_kind_is_refused_at_start(url: str, edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with program(edge_home, url, peer):
                pass
        [error] = caught.value.exceptions
        assert isinstance(error, ConfigurationError)
        assert "AGENTAPI_REDIS_URL" in str(error)


async def test_a_turn_is_followed_live_from_another_process(edge_home: Path, redis_url: str, redis_prefix: str) -> None:
    steps = Steps()
    async with (
        OpenAIPeer(pace=steps) as peer,
        program(edge_home, redis_url, peer, redis_prefix) as one,
        program(edge_home, redis_url, peer, redis_prefix) as two,
    ):
        request = ChatRequest(message=f"[[slow]] [[chunks5]] live {uuid4()}", agent="droid")
        turn = await one.turns.start(one.principal, request)
        said, ended = list[str](), False
        steps.release(2)
        async for event in two.turns.follow(two.principal, turn):
            if isinstance(event, TextDelta):
                said.append(event.text)
                steps.release(1)
            ended = isinstance(event, TurnEnded)
        final = await two.turns.get(two.principal, str(turn.id))
        assert ended
        assert "".join(said) == final.reply
        assert len(said) >= 3  # each piece came as it was said: saving is every 2 s, and nobody waited for it


async def test_a_wait_in_another_process_reports_the_progress_live(
    edge_home: Path, redis_url: str, redis_prefix: str
) -> None:
    steps, told = Steps(), list[Progress]()
    async with (
        OpenAIPeer(pace=steps) as peer,
        program(edge_home, redis_url, peer, redis_prefix) as one,
        program(edge_home, redis_url, peer, redis_prefix) as two,
    ):
        turn = await one.turns.start(
            one.principal, ChatRequest(message=f"[[slow]] [[chunks3]] p {uuid4()}", agent="droid")
        )

        async def report(progress: Progress) -> None:
            told.append(progress)
            if "w0" in progress.tail:
                steps.release(5)

        steps.release(1)
        final = await two.turns.get(two.principal, str(turn.id), wait=WAIT, report=ProgressReport(report))
        assert final.status is TurnStatus.COMPLETED
        assert any("w0" in progress.tail for progress in told)
