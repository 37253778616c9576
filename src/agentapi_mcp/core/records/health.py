"""What was measured of the agents."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum


class HealthStatus(StrEnum):
    """How an agent or a part is; UNKNOWN when nobody has measured it."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """What a check saw; `error` is safe to show. UNKNOWN when there is no free way to tell."""

    status: HealthStatus
    error: str | None = None
    latency: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """What is known of an agent's health; `checked_at` None means that nobody has looked."""

    status: HealthStatus = HealthStatus.UNKNOWN
    checked_at: datetime | None = None
    last_error: str | None = None
    consecutive_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTraffic:
    """What an agent's recent turns took and cost, over completed turns; None when there were none."""

    turns: int = 0
    failures: int = 0
    latency_p50: timedelta | None = None
    latency_p95: timedelta | None = None
    cost_p50_usd: Decimal | None = None
