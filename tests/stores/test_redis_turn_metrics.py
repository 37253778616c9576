"""How agents did in the last hour, as other programs read it in Redis."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import cast

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import AgentId, OrgId, SessionId, TurnId, UserId, new_id
from agentapi_mcp.core.backends.events import Usage
from agentapi_mcp.core.conversations.models import Turn, TurnCost, TurnStatus
from agentapi_mcp.stores.redis import RedisTurnMetrics, open_gathered, open_redis
from tests.stores.test_redis_troubles import ask, program
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def read(valkey: Valkey, key: str) -> dict[str, str]:
    """Read a hash."""
    return cast("dict[str, str]", valkey.run("HGETALL", key))


def turn(org: OrgId, usage: Usage, at: datetime = NOON, status: TurnStatus = TurnStatus.COMPLETED) -> Turn:
    """Make a turn that has ended."""
    return Turn(
        id=TurnId(new_id()),
        session_id=SessionId(new_id()),
        user_id=UserId(new_id()),
        org_id=org,
        status=status,
        agent="droid",
        backend="openai",
        model=None,
        message="hello",
        reply="",
        created_at=at,
        asked_at=at,
        ended_at=at,
        bill=TurnCost(usage=usage, latency=timedelta(seconds=1.5)),
    )


async def test_replicas_add_up_each_organisations_turns_for_an_hour(valkey: Valkey) -> None:
    ours, theirs, agent, clock = OrgId(new_id()), OrgId(new_id()), AgentId(new_id()), SystemClock()
    known = Usage(input_tokens=10, output_tokens=2, cost_usd=Decimal("0.0000775"))
    key = f"a:agent:metrics:{ours}:{agent}"
    for minute in (0, 1):
        async with open_redis(valkey.url, "a:", clock) as client, open_gathered(client, clock) as gathered:
            metrics = RedisTurnMetrics(client, gathered)
            at = NOON + timedelta(minutes=minute)
            metrics.note(agent, turn(ours, known, at))
            metrics.note(agent, turn(ours, Usage(), at + timedelta(seconds=5), TurnStatus.FAILED))
            metrics.note(agent, turn(theirs, known, at))
        assert 0 < cast("int", valkey.run("TTL", key)) <= 3600
        if minute == 0:
            valkey.run("EXPIRE", key, "1000")
    # It began with the first turn, and ends an hour later, whatever comes meanwhile.
    assert cast("int", valkey.run("TTL", key)) <= 1000
    assert read(valkey, key) == {
        "since": "2026-11-30T12:00:00+00:00",
        "last_at": "2026-11-30T12:01:05+00:00",
        "turns": "4",
        "failed": "2",
        "unpriced": "2",
        "input_tokens": "20",
        "output_tokens": "4",
        "cost_nanos": "155000",
        "latency_ms": "6000",
    }
    assert read(valkey, f"a:agent:metrics:{theirs}:{agent}")["turns"] == "2"


async def test_a_turn_is_counted_after_its_answer_and_waits_for_no_redis(edge_home: Path, valkey: Valkey) -> None:
    async with OpenAIPeer() as peer, program(edge_home, valkey.url, peer) as services:
        answered = await ask(services, "hello")
        await asyncio.to_thread(wait_until, lambda: valkey.keys(f"agent:metrics:{answered.org_id}:*"))
        [key] = valkey.keys(f"agent:metrics:{answered.org_id}:*")
        counted = read(valkey, key)
        usage = answered.bill.usage
        assert (counted["turns"], counted["failed"]) == ("1", "0")
        assert counted["input_tokens"] == str(usage.input_tokens)
        assert counted["output_tokens"] == str(usage.output_tokens)
        valkey.stop()
        await ask(services, "again", answered)
        valkey.start()
