"""Hot copies of rows: made by who reads a row, unless it changed meanwhile, and trusted for ten seconds."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast
from uuid import uuid4

from redis.asyncio import Redis

from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import ROW_READ

# Other programs write rows as well, and who changes a row may be cut off from Redis, or know of none.
TRUSTED_FOR = ROW_READ.lifetime
_MILLISECOND = timedelta(milliseconds=1)
_READ = "read"
# A name of a client may have braces, which would be a hash tag of its own.
_NO_TAG = str.maketrans({"{": "%7B", "}": "%7D", "%": "%25"})
# A lease of Memcached ("Scaling Memcache at Facebook", NSDI 2013, section 3.2.1): whoever removes a copy removes the
# claims of those who read its row at that moment, so that none of them puts back what it read before the change.
_PUT = """#!lua
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SET', KEYS[2], ARGV[4], 'KEEPTTL')
return 1
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy, and how long ago its row was read at most, by the clock of Redis."""

    text: str
    age: timedelta


class HotCopies:
    """Copies under keys of any kind, named without the prefix; all may be absent at any moment.

    The order is: `claim`, read or change the row, `put`. Who changed it may `remove` instead, after the commit.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def find(self, names: Sequence[str]) -> Sequence[Copy | None]:
        """Read the copies that are still trusted."""

        async def read(redis: Redis) -> list[str | int | None]:
            # What belongs to a copy together, for another replica may replace it in between. In a cluster each copy is
            # in a slot of its own.
            at_once = [[name] for name in names] if self._client.is_cluster else [names]
            found = list[str | int | None]()
            for together in at_once:
                async with redis.pipeline(transaction=True) as pipe:
                    for copy, row_read in map(self._keys, together):
                        pipe.get(copy)
                        pipe.get(row_read)
                        pipe.pttl(row_read)
                    found += cast("list[str | int | None]", await pipe.execute())
            return found

        found = await self._client.read(read, [None] * 3 * len(names))
        return [
            _copy(*cast("tuple[str | None, str | None, int]", found[at : at + 3])) for at in range(0, len(found), 3)
        ]

    async def claim(self, names: Sequence[str]) -> str | None:
        """Announce that rows are about to be read or changed; None if no copy can be made now."""
        claim = uuid4().hex

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.set(self._keys(name)[1], claim, px=TRUSTED_FOR)
                await pipe.execute()

        return claim if await self._client.write(write) else None

    async def put(self, name: str, text: str, lifetime: timedelta, claim: str | None) -> bool:
        """Store a copy; False if the claim has ended, because the row changed or somebody else claimed it."""
        milliseconds = lifetime // _MILLISECOND
        if claim is None or milliseconds <= 0:
            return False
        arguments = [*self._keys(name), claim, text, milliseconds, _READ]
        return bool(
            await self._client.script(lambda redis: cast("Awaitable[int]", redis.eval(_PUT, 2, *arguments))),
        )

    async def remove(self, name: str) -> None:
        """Remove a copy with all claims; a full server allows that too."""
        await self._client.write(lambda redis: redis.delete(*self._keys(name)))

    def _keys(self, name: str) -> tuple[str, str]:
        copy = self._client.prefix + name.translate(_NO_TAG)
        return copy, self._client.key(ROW_READ, copy)


def _copy(text: str | None, row_read: str | None, left: int) -> Copy | None:
    if text is None or row_read != _READ:
        return None
    age = TRUSTED_FOR - left * _MILLISECOND
    # A key without an end, or with a later one than any has, is not of this program.
    return Copy(text, age) if timedelta(0) <= age < TRUSTED_FOR else None
