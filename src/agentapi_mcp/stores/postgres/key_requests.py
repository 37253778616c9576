"""Requests for keys and accounts in Postgres: for a single use, and for some minutes."""

from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource, most_rows
from agentapi_mcp.core.keys.models import KeyRequest, PagePurpose
from agentapi_mcp.core.keys.ports import KeyRequestStore
from agentapi_mcp.stores.postgres.connections import Lane
from agentapi_mcp.stores.postgres.database import Database, Row

# Limit per user; a new link makes room by removing the oldest one.
MOST_REQUESTS = most_rows(Resource.KEY_LINKS)
_ADD: LiteralString = """
WITH dropped AS (
    DELETE FROM agentapi.key_requests
     WHERE token_sha256 IN (SELECT token_sha256 FROM agentapi.key_requests
                             WHERE user_id = $2 ORDER BY expires_at DESC, token_sha256 OFFSET $7)
)
INSERT INTO agentapi.key_requests (token_sha256, user_id, org_id, issuer, provider, expires_at, purpose)
VALUES ($1, $2, $3, $4, $5, $6, $8)
"""
_FIND: LiteralString = """
SELECT token_sha256, user_id, org_id, issuer, provider, expires_at, purpose FROM agentapi.key_requests
 WHERE token_sha256 = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > now()
"""
# One statement: of two concurrent forms, the second one updates no row.
_CONSUME: LiteralString = """
UPDATE agentapi.key_requests SET used_at = now()
 WHERE token_sha256 = $1 AND purpose = $2 AND used_at IS NULL AND expires_at > now()
RETURNING token_sha256, user_id, org_id, issuer, provider, expires_at, purpose
"""


class PostgresKeyRequests(KeyRequestStore):
    """Accessible only to the program's role, since a visitor is not authenticated yet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def add(self, request: KeyRequest) -> None:
        async with self._database.as_system("a user is asked for a key", user=request.user_id) as connection:
            await connection.execute(
                _ADD,
                request.token_sha256,
                request.user_id,
                request.org_id,
                request.issuer,
                request.provider,
                request.expires_at,
                MOST_REQUESTS - 1,
                request.purpose,
            )

    @override
    async def find(self, token_sha256: bytes, purpose: PagePurpose) -> KeyRequest | None:
        async with self._database.as_system("whose link this is", lane=Lane.RESERVED) as connection:
            return _request(await connection.fetchrow(_FIND, token_sha256, purpose))

    @override
    async def consume(self, visitor: Principal, token_sha256: bytes, purpose: PagePurpose) -> KeyRequest | None:
        async with self._database.as_system("a key is entered", user=visitor.user_id) as connection:
            return _request(await connection.fetchrow(_CONSUME, token_sha256, purpose))

    @override
    async def restore(self, visitor: Principal, token_sha256: bytes) -> None:
        async with self._database.as_system("what was entered is no key", user=visitor.user_id) as connection:
            await connection.execute(
                "UPDATE agentapi.key_requests SET used_at = NULL WHERE token_sha256 = $1", token_sha256
            )


def _request(row: Row | None) -> KeyRequest | None:
    if row is None:
        return None
    return KeyRequest(
        token_sha256=row["token_sha256"],
        user_id=UserId(row["user_id"]),
        org_id=OrgId(row["org_id"]),
        issuer=row["issuer"],
        provider=row["provider"],
        expires_at=row["expires_at"],
        purpose=PagePurpose(row["purpose"]),
    )
