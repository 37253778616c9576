"""How each agent did in the last hour, in Redis for other programs; the ledger stays the source of truth."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId, OrgId
from agentapi_mcp.core.budgets.models import NANOS
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.ports import TurnMetrics
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.gathered import Batch, Command, GatheredWrites, Source
from agentapi_mcp.stores.redis.keys import METRICS

_FAILED = frozenset({TurnStatus.FAILED, TurnStatus.INTERRUPTED})


@dataclass(slots=True)
class _Hour:
    """What has been counted since the last write, and when the first and the last of these turns ended."""

    since: datetime
    last_at: datetime
    counts: Counter[str] = field(default_factory=Counter)


class RedisTurnMetrics(TurnMetrics, Source):
    """Adds up turns in a hash for each organisation and agent, which begins with a turn and is gone an hour later.

    Replicas add to one hash by increments. An organisation has hashes of its own: who may read its keys learns nothing
    of others.
    """

    def __init__(self, client: RedisClient, gathered: GatheredWrites) -> None:
        self._client = client
        self._gathered = gathered
        self._hours: dict[tuple[OrgId, AgentId], _Hour] = {}
        gathered.add(self)

    @override
    def note(self, agent_id: AgentId, turn: Turn) -> None:
        if turn.ended_at is None:
            return
        hour = self._hours.setdefault((turn.org_id, agent_id), _Hour(turn.ended_at, turn.ended_at))
        hour.last_at = turn.ended_at
        hour.counts.update(_counts(turn))
        self._gathered.note()

    @override
    def take(self) -> Batch:
        hours, self._hours = self._hours, {}
        return Batch([command for ids, hour in hours.items() for command in self._commands(*ids, hour)])

    def _commands(self, org_id: OrgId, agent_id: AgentId, hour: _Hour) -> list[Command]:
        key = self._client.key(METRICS, org_id, agent_id)
        return [
            ("HSETNX", key, "since", hour.since.isoformat()),
            ("HSET", key, "last_at", hour.last_at.isoformat()),
            *(("HINCRBY", key, name, number) for name, number in hour.counts.items()),
            ("EXPIRE", key, METRICS.seconds, "NX"),
        ]


def _counts(turn: Turn) -> dict[str, int]:
    usage, latency = turn.bill.usage, turn.bill.latency
    is_unknown = usage.cost_usd is None and turn.asked_at is not None
    return {
        "turns": 1,
        "failed": int(turn.status in _FAILED),
        "unpriced": int(is_unknown),
        "input_tokens": usage.input_tokens or 0,
        "output_tokens": usage.output_tokens or 0,
        "cost_nanos": round((usage.cost_usd or 0) * NANOS),
        "latency_ms": 0 if latency is None else round(latency.total_seconds() * 1000),
    }
