"""Access tokens of accounts: sealed and opened, cached while fresh, and renewed by one process at a time."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import SecretStr

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import AccountNeededError, AgentApiError, BackendError, BackendFault, StoreError
from agentapi_mcp.base.ids import UserId, new_id
from agentapi_mcp.base.sealing import Sealer
from agentapi_mcp.core.accounts.models import (
    Account,
    AccountProvider,
    AccountState,
    SealedAccount,
    Tokens,
    account_place,
)
from agentapi_mcp.core.accounts.ports import (
    AccountCache,
    AccountFlow,
    AccountStore,
    FlowRefusedError,
    FlowUnavailableError,
)
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditOutcome, AuditTarget
from agentapi_mcp.core.identity.principals import Principal

Flows = Callable[[AccountProvider], AccountFlow]

# An access token with less left is not sent any more: it could expire on the way.
_LAST_USE = timedelta(seconds=5)
# Longer than the lease of another process (docs/design/accounts.md).
_PATIENCE = timedelta(seconds=35)
_LOOK_EVERY = timedelta(milliseconds=200)
_WRITE_ATTEMPTS = 3
_WRITE_AGAIN = timedelta(seconds=1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenPorts:
    """What tokens are kept in, and where they come from."""

    store: AccountStore
    cache: AccountCache
    flows: Flows
    clock: Clock


class AccountTokens:
    """Seals and opens tokens, and renews them before they expire."""

    def __init__(self, ports: TokenPorts, sealer: Sealer, audit: AuditLog) -> None:
        self._store = ports.store
        self._cache = ports.cache
        self._flows = ports.flows
        self._clock = ports.clock
        self._sealer = sealer
        self._audit = audit
        self._renewals: dict[tuple[UserId, str], asyncio.Future[SealedAccount]] = {}

    @property
    def key_id(self) -> str:
        """The id of the master key that seals."""
        return self._sealer.key_id

    def seal(self, account: Account, tokens: Tokens) -> SealedAccount:
        """Encrypt tokens for the user and the provider of an account."""
        content = {
            "access_token": tokens.access.get_secret_value(),
            "refresh_token": None if tokens.refresh is None else tokens.refresh.get_secret_value(),
        }
        return SealedAccount(account, self._sealer.seal(json.dumps(content), _place(account)), self._sealer.key_id)

    def open_(self, stored: SealedAccount) -> Tokens:
        """Decrypt the tokens of an account.

        Raises:
            ConfigurationError: the master key that encrypted them is missing.
            StoreError: they were modified, or belong to another user or provider.
        """
        try:
            content = json.loads(self._sealer.open_(stored.sealed, _place(stored.account)))
        except AgentApiError as exc:
            # No fallback to the server's key: it would silently charge another account.
            _log.warning("account_not_opened", extra={"provider": stored.account.provider, "error": str(exc)})
            raise
        refresh = content["refresh_token"]
        return Tokens(
            access=SecretStr(content["access_token"]),
            refresh=None if refresh is None else SecretStr(refresh),
            expires_at=stored.account.expires_at,
            scopes=stored.account.scopes,
        )

    async def cached(self, user_id: UserId, providers: Mapping[str, AccountProvider]) -> Mapping[str, SecretStr]:
        """Read the access tokens that need no renewal yet; an entry that does not open counts as absent."""
        found = await self._cache.find(user_id, tuple(providers))
        opened: dict[str, SecretStr] = {}
        for provider, sealed in found.items():
            with suppress(AgentApiError):
                opened[provider] = SecretStr(self._sealer.open_(sealed, _cache_place(user_id, provider)))
        return opened

    async def claim(self, user_id: UserId, providers: Mapping[str, AccountProvider]) -> str | None:
        """Announce that accounts are read from the database now, and may be cached if none is removed meanwhile."""
        return await self._cache.claim(user_id, tuple(providers))

    async def _keep(self, stored: SealedAccount, tokens: Tokens, claim: str | None) -> None:
        """Cache an access token; only that one, the refresh token stays in the database."""
        account = stored.account
        place = _cache_place(account.user_id, account.provider)
        sealed = self._sealer.seal(tokens.access.get_secret_value(), place)
        await self._cache.put(account, sealed, claim)

    async def forget(self, account: Account) -> None:
        """Remove the cached access token of an account."""
        await self._cache.remove(account.user_id, account.provider)

    async def access(
        self, principal: Principal, provider: AccountProvider, stored: SealedAccount, claim: str | None
    ) -> SecretStr:
        """Return an access token that can be used now, renewed if that is due; it is cached under the claim.

        Raises:
            BackendError: the account is revoked, or its expired token cannot be renewed now.
        """
        now, account = self._clock.now(), stored.account
        if not _is_due(account, now):
            tokens = self.open_(stored)
            await self._keep(stored, tokens, claim)
            return tokens.access
        renewal = self._renewal(principal, provider, stored)
        if _is_usable(account, now):
            # Nobody waits for a slow provider while the old token is good; the next turn has the new one.
            return self.open_(stored).access
        # Shielded: a caller who goes away must not lose a refresh token that the provider has replaced already.
        return self.open_(await asyncio.shield(renewal)).access

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Run renewals until the context ends, which waits for those that have begun."""
        async with asyncio.TaskGroup() as self._group:
            yield

    def _renewal(
        self, principal: Principal, provider: AccountProvider, stored: SealedAccount
    ) -> asyncio.Future[SealedAccount]:
        """Return the renewal that runs in this process, or begin one."""
        name = stored.account.user_id, stored.account.provider
        running = self._renewals.get(name)
        if running is not None:
            return running
        renewal = self._renewals[name] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                renewal.set_result(await self._renewed(principal, provider, stored))
            except Exception as exc:  # noqa: BLE001  # the outermost point: it must not end the services of everybody
                if not isinstance(exc, AgentApiError):
                    _log.exception("account_renewal_failed", extra={"provider": provider.name})
                renewal.set_exception(exc if isinstance(exc, AgentApiError) else unavailable(provider))
                renewal.exception()  # retrieved: it is logged where it happens, and perhaps nobody waits for it
            finally:
                del self._renewals[name]
                renewal.cancel()

        self._group.create_task(run())
        return renewal

    async def _renewed(self, principal: Principal, provider: AccountProvider, stored: SealedAccount) -> SealedAccount:
        """Renew the tokens, or wait for the process that does."""
        owner, until = new_id().hex, self._clock.monotonic() + _PATIENCE.total_seconds()
        while _is_due(stored.account, self._clock.now()):
            if await self._store.claim(stored, owner):
                async with self._released_on_failure(stored, owner):
                    try:
                        return await self._renew(provider, stored)
                    except FlowRefusedError as exc:
                        await self._end_account(principal, provider, stored, str(exc))
                        raise not_connected(provider, was_revoked=True) from exc
            if self._clock.monotonic() >= until:
                raise unavailable(provider)
            await self._clock.sleep(_LOOK_EVERY)
            found = (await self._store.find(stored.account.user_id)).get(provider.name)
            if found is None or found.account.state is AccountState.REVOKED:
                raise not_connected(provider, was_revoked=found is not None)
            stored = found
        return stored

    @asynccontextmanager
    async def _released_on_failure(self, stored: SealedAccount, owner: str) -> AsyncGenerator[None]:
        """Give the lease back whatever fails, so that others need not wait until it ends."""
        try:
            yield
        except Exception:
            with suppress(StoreError):
                await self._store.release(stored, owner)
            raise

    async def _renew(self, provider: AccountProvider, stored: SealedAccount) -> SealedAccount:
        """Renew the tokens under the lease.

        Raises:
            FlowRefusedError: the provider does not renew them any more.
            BackendError: the provider cannot be reached now.
        """
        account, old = stored.account, self.open_(stored)
        if old.refresh is None:
            raise FlowRefusedError("it issued no refresh token")
        try:
            new = await self._flows(provider).renew(provider, old)
        except FlowUnavailableError as exc:
            _log.warning("account_not_renewed", extra={"provider": provider.name, "reason": str(exc)[:200]})
            raise unavailable(provider) from exc
        renewed = self.seal(account.renewed(self._clock.now(), new), new)
        # Written before anybody uses it: from now on the old refresh token may be void.
        if not await self._written(stored, renewed):
            await self._abandon(provider, new)
            raise not_connected(provider)
        # Not cached: only who has read a row since it changed may do that.
        await self.forget(renewed.account)
        return renewed

    async def _end_account(
        self, principal: Principal, provider: AccountProvider, stored: SealedAccount, reason: str
    ) -> None:
        """Mark an account as revoked: its user has to connect it again."""
        _log.info("account_revoked", extra={"provider": provider.name, "reason": reason})
        revoked = replace(stored.account, state=AccountState.REVOKED)
        await self._store.replace(stored, replace(stored, account=revoked))
        await self.forget(revoked)
        await self._audit.record(
            principal,
            AuditAction.ACCOUNT_REVOKED,
            target=AuditTarget("account", provider.name),
            outcome=AuditOutcome.REFUSED,
            details=AuditDetails(provider=provider.name),
        )

    async def _written(self, old: SealedAccount, new: SealedAccount) -> bool:
        for attempt in range(1, _WRITE_ATTEMPTS + 1):
            try:
                return await self._store.replace(old, new)
            except StoreError:
                if attempt == _WRITE_ATTEMPTS:
                    raise
                await self._clock.sleep(_WRITE_AGAIN)
        return False

    async def _abandon(self, provider: AccountProvider, tokens: Tokens) -> None:
        """Revoke tokens whose account was disconnected, or connected anew, while they were renewed."""
        with suppress(FlowRefusedError, FlowUnavailableError):
            await self._flows(provider).revoke(provider, tokens)


def not_connected(provider: AccountProvider, *, was_revoked: bool = False) -> AccountNeededError:
    """Return the error for a user who has to connect an account; `chat` asks by it."""
    name = provider.name
    if was_revoked:
        message = f"Your connected account at {name} is not accepted there any more."
        return AccountNeededError(BackendFault.AUTH, message, provider=name)
    message = f"This agent needs an account of yours at {name}, and none is connected."
    return AccountNeededError(BackendFault.BACKEND_MISSING, message, provider=name)


def unavailable(provider: AccountProvider) -> BackendError:
    """Return the error for an expired token that cannot be renewed now; the account stays connected."""
    return BackendError(
        BackendFault.CONNECTION,
        f"The access to your account at {provider.name} has expired, and it cannot be reached to renew that.",
        next_step="The account stays connected: send the message again in a moment.",
    )


def _is_due(account: Account, now: datetime) -> bool:
    return account.renew_at is not None and now >= account.renew_at


def _is_usable(account: Account, now: datetime) -> bool:
    return account.expires_at is None or now < account.expires_at - _LAST_USE


def _place(account: Account) -> tuple[str, ...]:
    return account_place(account.user_id, account.provider)


def _cache_place(user_id: UserId, provider: str) -> tuple[str, ...]:
    return "oauth_token", str(user_id), provider
