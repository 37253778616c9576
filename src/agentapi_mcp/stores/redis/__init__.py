"""Redis or Valkey: caches, live events and shares that replicas have in common; Postgres stays the source of truth."""

from agentapi_mcp.stores.redis.accounts import RedisAccountCache
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.client_states import RedisClientStates
from agentapi_mcp.stores.redis.events import open_turn_events
from agentapi_mcp.stores.redis.gathered import open_gathered
from agentapi_mcp.stores.redis.health import RedisHealth
from agentapi_mcp.stores.redis.leases import RedisLeases
from agentapi_mcp.stores.redis.session_caches import RedisSessionCache
from agentapi_mcp.stores.redis.turn_metrics import RedisTurnMetrics

__all__ = [
    "RedisAccountCache",
    "RedisClientStates",
    "RedisHealth",
    "RedisLeases",
    "RedisSessionCache",
    "RedisTurnMetrics",
    "open_gathered",
    "open_redis",
    "open_turn_events",
]
