"""Encrypted provider keys in Postgres; every statement filters by owner."""

from collections.abc import Sequence
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.errors import ConflictError
from agentapi_mcp.base.ids import ApiKeyId, OrgId, UserId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import ApiKey, KeyOwner, SealedKey
from agentapi_mcp.core.keys.ports import ApiKeyStore
from agentapi_mcp.stores.postgres.database import Database, Row

_KEY: LiteralString = """
SELECT id, user_id, org_id, provider, model, name, last_four, active, created_at, last_used_at
  FROM agentapi.user_api_keys
"""
_SEALED: LiteralString = """
SELECT id, user_id, org_id, provider, model, name, last_four, active, created_at, last_used_at, sealed_key, key_id
  FROM agentapi.user_api_keys
"""


class PostgresApiKeys(ApiKeyStore):
    """Accessible only to the program's role, which no outside client can assume."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def add(self, principal: Principal, new: SealedKey) -> ApiKey:
        key = new.key
        async with self._database.as_system("a key that its owner enters", user=principal.user_id) as connection:
            made = await connection.fetchval(
                "INSERT INTO agentapi.user_api_keys (id, user_id, org_id, provider, model, name, sealed_key, key_id, "
                "last_four, active, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) "
                "ON CONFLICT (org_id, user_id, name) DO NOTHING RETURNING id",
                key.id,
                key.owner.user_id,
                key.owner.org_id,
                key.provider,
                key.model,
                key.name,
                new.sealed,
                new.key_id,
                key.last_four,
                key.active,
                key.created_at,
            )
        if made is None:
            raise ConflictError(f"There is a key named {key.name!r}; remove it first, or give this one another name.")
        return key

    @override
    async def list_(self, principal: Principal, owner: KeyOwner) -> tuple[ApiKey, ...]:
        async with self._database.as_system(
            "keys for their owner, without the keys", user=principal.user_id
        ) as connection:
            rows = await connection.fetch(
                # NULL is the organisation's own key, which `=` would never match. Ids are in order of time (UUID
                # version 7).
                _KEY + "WHERE org_id = $1 AND user_id IS NOT DISTINCT FROM $2::uuid ORDER BY id",
                owner.org_id,
                owner.user_id,
            )
        return tuple(_key(row) for row in rows)

    @override
    async def active(self, principal: Principal) -> tuple[SealedKey, ...]:
        async with self._database.as_system("keys that a turn may use", user=principal.user_id) as connection:
            rows = await connection.fetch(
                _SEALED + "WHERE org_id = $1 AND (user_id = $2 OR user_id IS NULL) AND active",
                principal.org_id,
                principal.user_id,
            )
        return tuple(_sealed(row) for row in rows)

    @override
    async def remove(self, principal: Principal, key: ApiKey) -> None:
        async with self._database.as_system("a key that its owner removes", user=principal.user_id) as connection:
            await connection.execute(
                "DELETE FROM agentapi.user_api_keys WHERE id = $1 AND org_id = $2 "
                "AND user_id IS NOT DISTINCT FROM $3::uuid",
                key.id,
                key.owner.org_id,
                key.owner.user_id,
            )

    @override
    async def set_active(self, principal: Principal, key: ApiKey, *, active: bool) -> None:
        async with self._database.as_system(
            "a key that its owner turns on or off", user=principal.user_id
        ) as connection:
            await connection.execute(
                "UPDATE agentapi.user_api_keys SET active = $4 WHERE id = $1 AND org_id = $2 "
                "AND user_id IS NOT DISTINCT FROM $3::uuid",
                key.id,
                key.owner.org_id,
                key.owner.user_id,
                active,
            )

    @override
    async def mark_used(self, principal: Principal, key: ApiKey) -> None:
        async with self._database.as_system("when a key was used last", user=principal.user_id) as connection:
            await connection.execute(
                # Checked here too, since other processes record uses of the same key.
                "UPDATE agentapi.user_api_keys SET last_used_at = now() WHERE id = $1 "
                "AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
                key.id,
            )

    @override
    async def sealed(self, after: ApiKeyId, limit: int) -> tuple[SealedKey, ...]:
        async with self._database.as_system("keys to seal again") as connection:
            rows = await connection.fetch(_SEALED + "WHERE id > $1 ORDER BY id LIMIT $2", after, limit)
        return tuple(_sealed(row) for row in rows)

    @override
    async def replace(self, pairs: Sequence[tuple[SealedKey, SealedKey]]) -> int:
        async with self._database.as_system("keys that were sealed again") as connection:
            done = [
                await connection.fetchval(
                    # Compare and set: a rotation must not bring back a value that was replaced meanwhile.
                    "UPDATE agentapi.user_api_keys SET sealed_key = $3, key_id = $4 "
                    "WHERE id = $1 AND sealed_key = $2 RETURNING id",
                    old.key.id,
                    old.sealed,
                    new.sealed,
                    new.key_id,
                )
                for old, new in pairs
            ]
        return sum(each is not None for each in done)


def _key(row: Row) -> ApiKey:
    return ApiKey(
        id=ApiKeyId(row["id"]),
        owner=KeyOwner(OrgId(row["org_id"]), None if row["user_id"] is None else UserId(row["user_id"])),
        name=row["name"],
        provider=row["provider"],
        model=row["model"],
        last_four=row["last_four"],
        active=row["active"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
    )


def _sealed(row: Row) -> SealedKey:
    return SealedKey(_key(row), row["sealed_key"], row["key_id"])
