"""Hot copies of the state of MCP clients, so that a replica need not read a row that another has just read."""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import cast

from redis.asyncio import Redis
from typing_extensions import override

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.json_values import as_list, as_object, is_object, load_json
from agentapi_mcp.core.clients.models import ClientState, State, client_session_id
from agentapi_mcp.core.clients.ports import ClientStore
from agentapi_mcp.core.clients.preferences import readable
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.keys import CLIENT

# Other programs write the row as well, and a replica may be cut off from Redis when it does.
TRUSTED_FOR = timedelta(seconds=10)
_MAX_SIZE = 65_536  # characters
_MILLISECOND = timedelta(milliseconds=1)


class RedisClientStates(ClientStore):
    """Delegates to the wrapped store, and answers `find` from a copy in Redis until that is ten seconds old.

    A copy has what preferences are read from alone. Its age is that of its key, by the clock of Redis.
    """

    def __init__(self, store: ClientStore, client: RedisClient, clock: Clock) -> None:
        self._store = store
        self._client = client
        self._clock = clock

    @override
    async def record(self, principal: Principal, client: str, state: State) -> None:
        """Record a client's use; nothing of it is in the copy."""
        await self._store.record(principal, client, state)

    @override
    async def find(self, principal: Principal, client: str) -> ClientState:
        copy = await self._copy(principal, client)
        if copy is not None and copy.age < TRUSTED_FOR:
            return copy
        begin = self._clock.monotonic()
        state = await self._store.find(principal, client)
        await self._put(principal, client, state, timedelta(seconds=self._clock.monotonic() - begin))
        return state

    @override
    async def list_(self, principal: Principal) -> Sequence[tuple[str, ClientState]]:
        return await self._store.list_(principal)

    @override
    async def change(self, principal: Principal, client: str, edit: Callable[[State], State]) -> ClientState:
        begin = self._clock.monotonic()
        state = await self._store.change(principal, client, edit)
        await self._put(principal, client, state, timedelta(seconds=self._clock.monotonic() - begin))
        return state

    async def _copy(self, principal: Principal, client: str) -> ClientState | None:
        key = self._key(principal, client)

        async def read(redis: Redis) -> tuple[str | None, int]:
            # Together, for another replica may replace the copy in between.
            async with redis.pipeline(transaction=True) as pipe:
                pipe.get(key)
                pipe.pttl(key)
                return cast("tuple[str | None, int]", tuple(await pipe.execute()))

        text, left = await self._client.read(read, (None, 0))
        return None if text is None else _state(principal, text, CLIENT.lifetime - left * _MILLISECOND)

    async def _put(self, principal: Principal, client: str, state: ClientState, late: timedelta) -> None:
        """Replace the copy by one that is `late` old already; where that fails, there is none."""
        key, text = self._key(principal, client), _text(principal, state)
        milliseconds = (CLIENT.lifetime - late) // _MILLISECOND

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                # A full server still deletes; a copy from before a change must not stay.
                pipe.delete(key)
                if len(text) <= _MAX_SIZE and milliseconds > 0:
                    pipe.set(key, text, px=milliseconds)
                await pipe.execute()

        await self._client.write(write)

    def _key(self, principal: Principal, client: str) -> str:
        return self._client.key(CLIENT, client_session_id(principal, client))


def _text(principal: Principal, state: ClientState) -> str:
    kept = readable(state)
    return json.dumps(
        {
            **_owner(principal),
            "mcp_state": dict(kept.own),
            "others": [dict(other) for other in kept.others],
        }
    )


def _owner(principal: Principal) -> dict[str, str]:
    return {"user_id": str(principal.user_id), "org_id": str(principal.org_id)}


def _state(principal: Principal, text: str, age: timedelta) -> ClientState | None:
    """Parse a copy; None for an unknown format, another's, or an age that it cannot have."""
    try:
        copy = as_object(load_json(text))
    except (ValueError, RecursionError):
        return None
    own, others = copy.get("mcp_state"), as_list(copy.get("others"))
    if not is_object(own) or age < timedelta(0) or not _owner(principal).items() <= copy.items():
        return None
    return ClientState(own, tuple(map(as_object, others)), age)
