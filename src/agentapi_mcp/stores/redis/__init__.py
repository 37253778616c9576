"""Redis or Valkey: caches and live events shared by replicas; Postgres stays the source of truth."""

from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.events import open_turn_events
from agentapi_mcp.stores.redis.health import RedisHealth
from agentapi_mcp.stores.redis.session_caches import RedisSessionCache

__all__ = ["RedisHealth", "RedisSessionCache", "open_redis", "open_turn_events"]
