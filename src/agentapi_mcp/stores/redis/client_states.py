"""Hot copies of the state of MCP clients, so that a replica need not read a row that another has just read."""

import json
from collections.abc import Callable, Sequence

from typing_extensions import override

from agentapi_mcp.base.json_values import as_list, as_object, is_object, load_json
from agentapi_mcp.core.clients.models import ClientState, State, client_session_id
from agentapi_mcp.core.clients.ports import ClientStore
from agentapi_mcp.core.clients.preferences import readable
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.redis.client import RedisClient
from agentapi_mcp.stores.redis.hot_copies import Copy, HotCopies
from agentapi_mcp.stores.redis.keys import CLIENT

_MAX_SIZE = 65_536  # characters


class RedisClientStates(ClientStore):
    """Delegates to the wrapped store, and answers `find` from a copy in Redis until that is ten seconds old.

    A copy has what preferences are read from alone.
    """

    def __init__(self, store: ClientStore, client: RedisClient) -> None:
        self._store = store
        self._copies = HotCopies(client)

    @override
    async def record(self, principal: Principal, client: str, state: State) -> None:
        """Record a client's use; nothing of it is in the copy."""
        await self._store.record(principal, client, state)

    @override
    async def find(self, principal: Principal, client: str) -> ClientState:
        name = _name(principal, client)
        (copy,) = await self._copies.find([name])
        state = None if copy is None else _state(principal, copy)
        if state is not None:
            return state
        claim = await self._copies.claim([name])
        state = await self._store.find(principal, client)
        await self._put(principal, client, state, claim)
        return state

    @override
    async def list_(self, principal: Principal) -> Sequence[tuple[str, ClientState]]:
        return await self._store.list_(principal)

    @override
    async def change(self, principal: Principal, client: str, edit: Callable[[State], State]) -> ClientState:
        name = _name(principal, client)
        claim = await self._copies.claim([name])
        state = await self._store.change(principal, client, edit)
        if not await self._put(principal, client, state, claim):
            # Who has claimed it meanwhile may have read the row as it was before.
            await self._copies.remove(name)
        return state

    async def _put(self, principal: Principal, client: str, state: ClientState, claim: str | None) -> bool:
        name, text = _name(principal, client), _text(principal, state)
        if len(text) <= _MAX_SIZE:
            return await self._copies.put(name, text, CLIENT.lifetime, claim)
        await self._copies.remove(name)
        return True


def _name(principal: Principal, client: str) -> str:
    return CLIENT.name("", client_session_id(principal, client))


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


def _state(principal: Principal, copy: Copy) -> ClientState | None:
    """Parse a copy; None for an unknown format or another's."""
    try:
        content = as_object(load_json(copy.text))
    except (ValueError, RecursionError):
        return None
    own, others = content.get("mcp_state"), as_list(content.get("others"))
    if not is_object(own) or not _owner(principal).items() <= content.items():
        return None
    return ClientState(own, tuple(map(as_object, others)), copy.age)
