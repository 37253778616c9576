"""Connected accounts in Postgres: sealed tokens in `oauth_data` of one row of `mcp_sessions` per user.

The row has no `protocol` in its state, so it is no client's: it is not swept, listed or counted as one.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.ids import UserId
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.core.accounts.models import Account, AccountState, SealedAccount
from agentapi_mcp.core.accounts.ports import AccountStore
from agentapi_mcp.stores.postgres.database import Connection, Database
from agentapi_mcp.stores.postgres.jsons import json_object

_PURPOSE: LiteralString = "one user's accounts, each statement names the user"
# Longer than the longest exchange with a provider, and shorter than the patience of those who wait for it.
LEASE_SECONDS = 30
RELEASE_SECONDS = 1
_PREFIX = "oauth/"
_NONE = "UPDATE 0"
_FIND: LiteralString = """
SELECT oauth_data::text FROM public.mcp_sessions WHERE user_id = $1 AND session_id = $2
"""
# Other programs may sweep by `expires_at`, and their column may not allow NULL.
_INSERT: LiteralString = """
INSERT INTO public.mcp_sessions (user_id, session_id, mcp_state, oauth_data, expires_at)
VALUES ($1, $2, '{"kind": "accounts"}', '{}', '9999-12-31')
    ON CONFLICT DO NOTHING
"""
_PUT: LiteralString = """
UPDATE public.mcp_sessions
   SET oauth_data = coalesce(oauth_data, '{}') || jsonb_build_object($3::text, $4::text::jsonb), updated_at = now()
 WHERE user_id = $1 AND session_id = $2
"""
# Compare and set, in one statement: of two processes with the same tokens one gets the lease, and one with tokens that
# were replaced meanwhile gets none. The lease is by the database's clock, which all replicas share.
_CLAIM: LiteralString = """
UPDATE public.mcp_sessions
   SET oauth_data = jsonb_set(oauth_data, ARRAY[$3::text, 'lease'], jsonb_build_object(
           'by', $5::text, 'until', extract(epoch FROM clock_timestamp()) + $6::integer))
 WHERE user_id = $1 AND session_id = $2
   AND oauth_data #>> ARRAY[$3::text, 'sealed'] = $4 AND oauth_data #>> ARRAY[$3::text, 'state'] = 'connected'
   AND coalesce((oauth_data #>> ARRAY[$3::text, 'lease', 'until'])::numeric, 0) < extract(epoch FROM clock_timestamp())
"""
_RELEASE: LiteralString = """
UPDATE public.mcp_sessions
   SET oauth_data = jsonb_set(oauth_data, ARRAY[$3::text, 'lease', 'until'],
           to_jsonb(extract(epoch FROM clock_timestamp()) + $6::integer))
 WHERE user_id = $1 AND session_id = $2
   AND oauth_data #>> ARRAY[$3::text, 'sealed'] = $4 AND oauth_data #>> ARRAY[$3::text, 'lease', 'by'] = $5
"""
_REPLACE: LiteralString = """
UPDATE public.mcp_sessions
   SET oauth_data = jsonb_set(oauth_data, ARRAY[$3::text], $5::text::jsonb), updated_at = now()
 WHERE user_id = $1 AND session_id = $2 AND oauth_data #>> ARRAY[$3::text, 'sealed'] = $4
"""
_REMOVE: LiteralString = """
UPDATE public.mcp_sessions SET oauth_data = oauth_data - $3::text, updated_at = now()
 WHERE user_id = $1 AND session_id = $2 AND oauth_data #>> ARRAY[$3::text, 'sealed'] = $4
"""
_LIST: LiteralString = """
SELECT user_id, oauth_data::text FROM public.mcp_sessions
 WHERE session_id = 'oauth/' || user_id AND user_id > $1
   AND EXISTS (SELECT FROM jsonb_each(oauth_data) AS each (name, content) WHERE content ? 'key_id')
 ORDER BY user_id LIMIT $2
"""


class PostgresAccounts(AccountStore):
    """Accessible only to the program's role; every statement names the user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def find(self, user_id: UserId) -> Mapping[str, SealedAccount]:
        async with self._database.as_system(_PURPOSE, user=user_id) as connection:
            return _accounts(user_id, await connection.fetchval(_FIND, user_id, _id(user_id)))

    @override
    async def put(self, new: SealedAccount) -> None:
        user_id = new.account.user_id
        own = user_id, _id(user_id)
        async with self._database.as_system("an account that its user connects", user=user_id) as connection:
            await connection.execute(_INSERT, *own)
            done = await connection.execute(_PUT, *own, new.account.provider, _entry(new))
        if done == _NONE:
            raise StoreError("The row of this user's accounts is another user's; the operator removes it.")

    @override
    async def claim(self, stored: SealedAccount, owner: str) -> bool:
        async with self._of(stored) as connection:
            return await connection.execute(_CLAIM, *_own(stored), owner, LEASE_SECONDS) != _NONE

    @override
    async def replace(self, old: SealedAccount, new: SealedAccount) -> bool:
        async with self._of(old) as connection:
            return await connection.execute(_REPLACE, *_own(old), _entry(new)) != _NONE

    @override
    async def release(self, stored: SealedAccount, owner: str) -> None:
        async with self._of(stored) as connection:
            await connection.execute(_RELEASE, *_own(stored), owner, RELEASE_SECONDS)

    @override
    async def remove(self, stored: SealedAccount) -> bool:
        async with self._of(stored) as connection:
            return await connection.execute(_REMOVE, *_own(stored)) != _NONE

    @override
    async def sealed(self, after: UserId, limit: int) -> Sequence[SealedAccount]:
        async with self._database.as_system("accounts to seal again") as connection:
            rows = await connection.fetch(_LIST, after, limit)
        found = (_accounts(UserId(row["user_id"]), row["oauth_data"]).values() for row in rows)
        return [account for accounts in found for account in accounts]

    def _of(self, stored: SealedAccount) -> AbstractAsyncContextManager[Connection]:
        return self._database.as_system(_PURPOSE, user=stored.account.user_id)


def _own(stored: SealedAccount) -> tuple[object, str, str, str]:
    """Return what names an account whose tokens are still these."""
    account = stored.account
    return account.user_id, _id(account.user_id), account.provider, _text(stored.sealed)


def _id(user_id: UserId) -> str:
    return f"{_PREFIX}{user_id}"


def _text(sealed: bytes) -> str:
    return base64.b64encode(sealed).decode()


def _entry(sealed: SealedAccount) -> str:
    account = sealed.account
    return json.dumps(
        {
            "sealed": _text(sealed.sealed),
            "key_id": sealed.key_id,
            "state": account.state,
            "scopes": account.scopes,
            "connected_at": account.connected_at.isoformat(),
            "issued_at": account.issued_at.isoformat(),
            "expires_at": account.expires_at and account.expires_at.isoformat(),
        }
    )


def _accounts(user_id: UserId, text: str | None) -> Mapping[str, SealedAccount]:
    read = ((name, _account(user_id, name, as_object(entry))) for name, entry in json_object(text).items())
    return {name: account for name, account in read if account is not None}


def _account(user_id: UserId, provider: str, entry: Mapping[str, object]) -> SealedAccount | None:
    """Read an entry; None for what this program did not write."""
    try:
        expires_at = entry["expires_at"]
        account = Account(
            user_id=user_id,
            provider=provider,
            connected_at=datetime.fromisoformat(str(entry["connected_at"])),
            issued_at=datetime.fromisoformat(str(entry["issued_at"])),
            expires_at=None if expires_at is None else datetime.fromisoformat(str(expires_at)),
            scopes=tuple(map(str, as_list(entry["scopes"]))),
            state=AccountState(str(entry["state"])),
        )
        return SealedAccount(account, base64.b64decode(str(entry["sealed"])), str(entry["key_id"]))
    except (KeyError, ValueError, binascii.Error):
        return None
