"""What is leased to all replicas of the shares of users, counted in Redis by its own clock; safe to lose."""

from collections.abc import Hashable, Sequence
from hashlib import sha256
from typing import cast
from uuid import UUID, uuid4

from redis.asyncio import Redis
from typing_extensions import override

from agentapi_mcp.core.identity.leases import Claim, LeaseStore
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.gathered import Command
from agentapi_mcp.stores.redis.keys import HELD, USED

# Its first line makes a full or read-only server refuse it as a whole, before any of it is done.
#
# What is held is a hash: the id of a replica, and the amount with the time at which its lease ends. A rate is the time
# at which all that was used is forgotten (the theoretical arrival time of the GCRA, ITU-T I.371, annex A): a minute
# ahead is all of it. Times are microseconds.
_CLAIM = """#!lua
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local replica, lifetime, minute = ARGV[1], ARGV[2] * 1000000, 60000000

local function hold(key, amount, most)
  local entries, others = redis.call('HGETALL', key), 0
  for i = 1, #entries, 2 do
    local held, ends = string.match(entries[i + 1], '^(%d+) (%d+)$')
    if tonumber(ends) <= now then
      redis.call('HDEL', key, entries[i])
    elseif entries[i] ~= replica then
      others = others + held
    end
  end
  local granted = math.max(0, math.min(amount, most - others))
  if granted > 0 then
    redis.call('HSET', key, replica, string.format('%.0f %.0f', granted, now + lifetime))
    redis.call('EXPIRE', key, ARGV[2])
  else
    redis.call('HDEL', key, replica)
  end
  return granted
end

local function use(key, amount, most)
  local forgotten = tonumber(redis.call('GET', key) or now)
  local room = math.floor((now + minute - forgotten) * most / minute)
  local granted = math.max(0, math.min(amount, room))
  if granted > 0 then
    forgotten = forgotten + granted * minute / most
    redis.call('SET', key, string.format('%.0f', forgotten), 'PX', math.ceil((forgotten - now) / 1000))
  end
  return granted
end

local granted = {}
for i, key in ipairs(KEYS) do
  local count = ARGV[3 * i] == 'rate' and use or hold
  granted[i] = count(key, tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2]))
end
return granted
"""


class RedisLeases(LeaseStore):
    """Counts leases in one round trip for all claims; each of them is atomic."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._replica = uuid4().hex

    @override
    async def claim(self, claims: Sequence[Claim]) -> Sequence[int] | None:
        # In a cluster each is in a slot of its own, and a script has the keys of one slot.
        at_once = [[claim] for claim in claims] if self._client.is_cluster else [claims]

        async def run(redis: Redis) -> Sequence[int]:
            async with redis.pipeline(transaction=False) as pipe:
                for together in at_once:
                    pipe.execute_command(*self._command(together))  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
                granted = cast("list[list[int]]", await pipe.execute())
            return [amount for amounts in granted for amount in amounts]

        return await self._client.script(run)

    def _command(self, claims: Sequence[Claim]) -> Command:
        arguments: list[str | int] = [self._replica, int(HELD.lifetime.total_seconds())]
        for terms, _, amount in claims:
            arguments += ["rate" if terms.is_rate else "held", amount, terms.most]
        return ("EVAL", _CLAIM, len(claims), *map(self._key, claims), *arguments)

    def _key(self, claim: Claim) -> str:
        kind = USED if claim.terms.is_rate else HELD
        return self._client.key(kind, claim.terms.resource, _name(claim.user))


def _name(user: Hashable) -> str:
    """Return the id of a user; of an address, or whatever a proxy sent in its place, a hash."""
    return str(user) if isinstance(user, UUID) else sha256(repr(user).encode()).hexdigest()[:32]
