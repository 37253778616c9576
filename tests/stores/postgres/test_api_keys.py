"""Keys in Postgres: each statement names the owner, and a value that changed meanwhile is not replaced."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.ids import ApiKeyId, new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import ApiKey, KeyOwner, SealedKey
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.database import Database
from tests.support.members import new_member


def sealed_key(who: Principal, *, organization: bool = False) -> SealedKey:
    key = ApiKey(
        id=ApiKeyId(new_id()),
        owner=KeyOwner(who.org_id, None if organization else who.user_id),
        name="vendor",
        provider="vendor",
        model=None,
        last_four=None,
        active=True,
        created_at=SystemClock().now(),
        last_used_at=None,
    )
    return SealedKey(key, b"first", "one")


async def remove(store: PostgresApiKeys, principal: Principal, key: ApiKey) -> None:
    await store.remove(principal, key)


async def disable(store: PostgresApiKeys, principal: Principal, key: ApiKey) -> None:
    await store.set_active(principal, key, active=False)


@pytest.mark.parametrize("organization", [False, True])
@pytest.mark.parametrize("change", [remove, disable])
async def test_a_key_is_changed_for_its_owner_and_for_no_other(
    change: Callable[[PostgresApiKeys, Principal, ApiKey], Awaitable[None]],
    organization: bool,  # noqa: FBT001  # a case
    database: Database,
) -> None:
    store, ann, eve = PostgresApiKeys(database), await new_member(database), await new_member(database)
    added = sealed_key(ann, organization=organization)
    key = await store.add(ann, added)
    others = {KeyOwner(org_id, user_id) for org_id in (ann.org_id, eve.org_id) for user_id in (ann.user_id, None)}
    for owner in {*others, KeyOwner(ann.org_id, eve.user_id)} - {key.owner}:
        await change(store, ann, replace(key, owner=owner))
        assert await store.active(ann) == (added,)
    await change(store, ann, key)
    assert await store.active(ann) == ()


async def test_a_value_that_changed_meanwhile_is_not_replaced(database: Database) -> None:
    store, ann = PostgresApiKeys(database), await new_member(database)
    old = sealed_key(ann)
    await store.add(ann, old)
    newer, again = replace(old, sealed=b"newer"), replace(old, sealed=b"again", key_id="two")
    assert await store.replace([(old, newer)]) == 1
    assert await store.replace([(old, again)]) == 0
    assert await store.active(ann) == (newer,)
    assert await store.replace([(newer, again)]) == 1
    assert await store.active(ann) == (again,)
