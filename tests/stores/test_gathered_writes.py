"""What is written to Redis together: a moment's writes of all turns, in one pipeline."""

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.gathered import Batch, Command, GatheredWrites
from agentapi_mcp.stores.redis.keys import PROBE
from tests.support.clocks import SteppedClock

MOST = 3


class Busy:
    """A source that has more to write as soon as something was written, a few times."""

    def __init__(self, gathered: GatheredWrites, key: str) -> None:
        self._gathered = gathered
        self._key = key
        self.taken = 0

    def take(self) -> Batch:
        """Return a command, and note that there will be another one."""
        self.taken += 1
        if self.taken < MOST:
            self._gathered.note()
        command: Command = ("INCR", self._key)
        return Batch([command])


async def test_a_busy_process_gathers_between_two_pipelines(redis_url: str, redis_prefix: str) -> None:
    clock = SteppedClock()
    async with open_redis(redis_url, redis_prefix, SystemClock()) as client:
        gathered = GatheredWrites(client, clock)
        source = Busy(gathered, client.key(PROBE, "here"))
        gathered.add(source)
        async with gathered.running():
            gathered.note()
            for written in range(MOST):
                await clock.next_wait()
                assert source.taken == written
                clock.end_wait()
    assert source.taken == MOST + 1  # and what is left, at the end
