"""Personal tokens in Postgres, stored as hashes."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.base.errors import ConflictError, LimitExceededError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import FoundToken, Membership, MembershipStatus, PersonalToken
from agentapi_mcp.core.access.ports import PersonalTokenStore
from agentapi_mcp.core.identity.principals import Principal, TokenScope
from agentapi_mcp.stores.postgres.connections import Lane
from agentapi_mcp.stores.postgres.database import Database, Row

_SELECT: LiteralString = """
SELECT t.id, t.user_id, t.org_id, t.name, t.token_hash, t.last_four, t.scopes, t.created_at, t.expires_at,
       t.last_used_at, t.revoked_at, t.toolsets, m.user_id IS NOT NULL AS is_member, m.role::text AS role,
       m.permissions::text AS permissions, agentapi.membership_status(t.user_id, t.org_id) AS membership_status
  FROM agentapi.personal_tokens t
  LEFT JOIN public.organization_members m ON m.user_id = t.user_id AND m.organization_id = t.org_id
"""


class PostgresPersonalTokens(PersonalTokenStore):
    """The table `agentapi.personal_tokens`, readable only by the program's role."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def add(self, token: PersonalToken, token_hash: bytes, *, most: int) -> None:
        """Store a new token; the name of an expired one can be reused.

        Raises:
            ConflictError: another token has this name.
            LimitExceededError: the owner has `most` tokens already.
        """
        async with self._database.as_system("make a user's personal token", user=token.user_id) as connection:
            await connection.execute(
                # The unique index covers unrevoked tokens, expired ones too: this frees the name of an expired one.
                "UPDATE agentapi.personal_tokens SET revoked_at = expires_at "
                "WHERE user_id = $1 AND org_id = $2 AND name = $3 AND revoked_at IS NULL AND expires_at <= $4",
                token.user_id,
                token.org_id,
                token.name,
                token.created_at,
            )
            there = await connection.fetchval(
                "SELECT count(*) FROM agentapi.personal_tokens "
                "WHERE user_id = $1 AND org_id = $2 AND revoked_at IS NULL",
                token.user_id,
                token.org_id,
            )
            if there >= most:
                raise LimitExceededError(f"There are {most} personal tokens already; revoke one that is not needed.")
            made = await connection.execute(
                "INSERT INTO agentapi.personal_tokens "
                "(id, user_id, org_id, name, token_hash, last_four, scopes, created_at, expires_at, toolsets) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
                "ON CONFLICT (user_id, org_id, name) WHERE revoked_at IS NULL DO NOTHING",
                token.id,
                token.user_id,
                token.org_id,
                token.name,
                token_hash,
                token.last_four,
                sorted(token.scopes),
                token.created_at,
                token.expires_at,
                None if token.toolsets is None else sorted(token.toolsets),
            )
            if made == "INSERT 0 0":
                raise ConflictError(
                    f"There is a personal token {token.name!r} already: revoke it, or take another name."
                )

    @override
    async def list_(self, principal: Principal) -> tuple[PersonalToken, ...]:
        async with self._database.as_system("a user's own personal tokens", user=principal.user_id) as connection:
            rows = await connection.fetch(
                _SELECT + "WHERE t.user_id = $1 AND t.org_id = $2 AND t.revoked_at IS NULL "
                "ORDER BY t.created_at DESC, t.id DESC",
                principal.user_id,
                principal.org_id,
            )
        return tuple(_token(row) for row in rows)

    @override
    async def revoke(self, principal: Principal, token_id: UUID, at: datetime) -> bool:
        async with self._database.as_system("revoke a user's own personal token", user=principal.user_id) as connection:
            done = await connection.execute(
                "UPDATE agentapi.personal_tokens SET revoked_at = $4 "
                "WHERE id = $3 AND user_id = $1 AND org_id = $2 AND revoked_at IS NULL",
                principal.user_id,
                principal.org_id,
                token_id,
                at,
            )
        return done == "UPDATE 1"

    @override
    async def find(self, token_hashes: Collection[bytes]) -> Mapping[bytes, FoundToken]:
        async with self._database.as_system("whose personal tokens these are", lane=Lane.RESERVED) as connection:
            rows = await connection.fetch(_SELECT + "WHERE t.token_hash = ANY($1::bytea[])", list(token_hashes))
        return {row["token_hash"]: _found(row) for row in rows}

    @override
    async def record_use(self, token_id: UUID, at: datetime) -> None:
        """Record the time of a use, unless a later one is recorded."""
        async with self._database.as_system("when a personal token was used", lane=Lane.RESERVED) as connection:
            await connection.execute(
                "UPDATE agentapi.personal_tokens SET last_used_at = $2 "
                "WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
                token_id,
                at,
            )


def _found(row: Row) -> FoundToken:
    token = _token(row)
    if not row["is_member"]:
        return FoundToken(token, None)
    permissions, status = json.loads(row["permissions"] or "null"), MembershipStatus(row["membership_status"])
    return FoundToken(token, Membership(token.org_id, row["role"] or "", permissions, status))


def _token(row: Row) -> PersonalToken:
    return PersonalToken(
        id=row["id"],
        user_id=UserId(row["user_id"]),
        org_id=OrgId(row["org_id"]),
        name=row["name"],
        last_four=row["last_four"],
        # A scope that a newer program stored grants nothing here.
        scopes=frozenset(TokenScope(scope) for scope in row["scopes"] if scope in set(TokenScope)),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
        toolsets=None if row["toolsets"] is None else frozenset(row["toolsets"]),
    )
