"""Use cases of connected accounts: connect, list, disconnect, and the access token for a turn."""

import logging
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

from pydantic import SecretStr

from agentapi_mcp.base.errors import (
    AccountNeededError,
    AgentApiError,
    ConfigurationError,
    ConflictError,
    IssuerUnavailableError,
    NotAuthenticatedError,
    NotFoundError,
)
from agentapi_mcp.base.ids import UserId
from agentapi_mcp.base.sealing import Sealer
from agentapi_mcp.base.text import listed, quoted
from agentapi_mcp.core.access.models import LoginAnswer, LoginBegun
from agentapi_mcp.core.accounts.models import (
    Account,
    AccountProvider,
    AccountState,
    AccountToken,
    Disconnected,
    SealedAccount,
    Tokens,
)
from agentapi_mcp.core.accounts.ports import FlowRefusedError, FlowUnavailableError
from agentapi_mcp.core.accounts.tokens import AccountTokens, TokenPorts, not_connected
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.identity.principals import VIA_PERSONAL, Action, Principal, require
from agentapi_mcp.core.keys.models import Rotation, UnopenedSecret

# Accounts of one step of a rotation.
_BATCH = 50
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WayToConnect:
    """How somebody connects accounts: on the page at this address, by the command, or both."""

    page: str | None = None
    has_command: bool = True

    def at(self, provider: str) -> str:
        """Return it in words, for an account at a provider."""
        commands = (f"`agentapi-mcp accounts connect {provider}`",) if self.has_command else ()
        return " or ".join((*(() if self.page is None else (self.page,)), *commands))


@dataclass(frozen=True, slots=True)
class AvailableAccounts:
    """The accounts that a principal's turns can use: declared providers, and cached tokens or the sealed accounts.

    Those are read if not all tokens are cached, and decide alone then: a cached token says nothing against its row.
    `way` is how the principal connects one that is missing.
    """

    providers: Mapping[str, AccountProvider] = field(default_factory=dict[str, AccountProvider])
    cached: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr], repr=False)
    stored: Mapping[str, SealedAccount] = field(default_factory=dict[str, SealedAccount])
    claim: str | None = field(default=None, repr=False)
    way: WayToConnect = field(default_factory=WayToConnect)

    def is_connected(self, name: str) -> bool:
        """Return whether there is an account that is not revoked."""
        found = self.stored.get(name)
        return name in self.cached or (found is not None and found.account.state is AccountState.CONNECTED)

    def find(self, agent: str, provider: str) -> str | None:
        """Find the account that pays for an agent's turns with a model of the provider."""
        matching = (name for name, declared in self.providers.items() if declared.serves(agent, provider))
        return next((name for name in matching if self.is_connected(name)), None)

    def needed(self, name: str) -> str:
        """Return an account's name if it is connected.

        Raises:
            BackendError: it is not.
            ConfigurationError: the operator's file has no such provider.
        """
        declared = self.providers.get(name)
        if declared is None:
            raise ConfigurationError(
                f"This agent needs an account at {name}, but this server connects none there: it has no master key, or "
                "its file no such [[accounts]]."
            )
        if not self.is_connected(name):
            error = not_connected(declared, was_revoked=name in self.stored)
            error.connect_by(self.way.at(name))
            raise error
        return name


class Accounts:
    """Accounts of users at the providers of the operator's file; without a sealer there are none.

    `page` is the address where users who sign in over HTTP see, connect and disconnect theirs.
    """

    def __init__(self, ports: TokenPorts, sealer: Sealer | None, audit: AuditLog, page: str | None = None) -> None:
        self._ports = ports
        self._audit = audit
        self._page = page
        self._page_issuers: Collection[str] = ()
        self._tokens = None if sealer is None else AccountTokens(ports, sealer, audit)
        self._providers: Mapping[str, AccountProvider] = {}

    def reload(self, providers: Iterable[AccountProvider], page_issuers: Collection[str] = ()) -> None:
        """Replace the declared providers, and the issuers where visitors of the page can sign in."""
        self._providers = {provider.name: provider for provider in providers}
        self._page_issuers = page_issuers

    @property
    def providers(self) -> tuple[AccountProvider, ...]:
        """The declared providers."""
        return tuple(self._providers.values())

    def provider(self, name: str) -> AccountProvider:
        """Return a declared provider.

        Raises:
            NotFoundError: there is none of this name; the message lists those there are.
        """
        found = self._providers.get(name)
        if found is None:
            there = f"there are: {listed(sorted(self._providers))}" if self._providers else "none is declared"
            raise NotFoundError(f"Accounts can be connected at declared providers ([[accounts]]); {there}.")
        return found

    async def list_(self, principal: Principal) -> tuple[Account, ...]:
        """List the principal's accounts by provider, without their tokens."""
        require(principal, Action.MANAGE_KEYS)
        found = await self._ports.store.find(principal.user_id)
        return tuple(found[name].account for name in sorted(found))

    async def begin(self, principal: Principal, name: str, redirect_uri: str) -> LoginBegun:
        """Return the URL where the principal consents at a provider, with what to keep until the callback.

        Raises:
            NotFoundError: there is no such provider.
            IssuerUnavailableError: the provider cannot be reached.
            ConfigurationError: there is no master key to seal its tokens with.
        """
        require(principal, Action.MANAGE_KEYS)
        provider = self.provider(name)
        self._needed_tokens()
        try:
            return await self._ports.flows(provider).begin(provider, redirect_uri)
        except (FlowRefusedError, FlowUnavailableError) as exc:
            raise self._failed(provider, exc) from exc

    async def finish(
        self, principal: Principal, name: str, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str
    ) -> Account:
        """Exchange the code of the callback, and store the account in place of an earlier one.

        Raises:
            NotAuthenticatedError: consent was denied, or the callback does not belong to what was begun.
        """
        require(principal, Action.MANAGE_KEYS)
        provider, tokens = self.provider(name), self._needed_tokens()
        try:
            issued = await self._ports.flows(provider).finish(provider, begun, answer, redirect_uri)
        except (FlowRefusedError, FlowUnavailableError) as exc:
            raise self._failed(provider, exc) from exc
        now = self._ports.clock.now()
        account = Account(
            user_id=principal.user_id,
            provider=name,
            connected_at=now,
            issued_at=now,
            expires_at=issued.expires_at,
            scopes=issued.scopes,
        )
        await self._ports.store.put(tokens.seal(account, issued))
        await tokens.forget(account)
        await self._record(principal, AuditAction.ACCOUNT_CONNECTED, name)
        return account

    async def disconnect(self, principal: Principal, name: str) -> Disconnected:
        """Remove an account, and revoke its tokens at the provider as far as that is possible.

        Raises:
            NotFoundError: the principal has no account there.
            ConflictError: it is being renewed at this moment.
        """
        require(principal, Action.MANAGE_KEYS)
        stored = (await self._ports.store.find(principal.user_id)).get(name)
        if stored is None:
            raise NotFoundError(f"You have no account at {quoted(name)}.")
        # Removed first: whatever the provider answers, this server does not use it any more.
        if not await self._ports.store.remove(stored):
            raise ConflictError("The account is being renewed at this moment; try again.")
        if self._tokens is not None:
            await self._tokens.forget(stored.account)
        is_revoked = await self._revoke(stored)
        await self._record(principal, AuditAction.ACCOUNT_DISCONNECTED, name)
        return Disconnected(stored.account, is_revoked)

    async def available(self, principal: Principal) -> AvailableAccounts:
        """Load the accounts that the principal's turns can use; the database is read only if the cache lacks one."""
        require(principal, Action.CHAT)
        if self._tokens is None or not self._providers:
            return AvailableAccounts()
        cached = await self._tokens.cached(principal.user_id, self._providers)
        if cached.keys() >= self._providers.keys():
            return AvailableAccounts(self._providers, cached, way=self._way(principal))
        # Before the row is read: a token of an account that is disconnected from now on is not cached any more.
        claim = await self._tokens.claim(principal.user_id, self._providers)
        stored = await self._ports.store.find(principal.user_id)
        return AvailableAccounts(self._providers, stored=stored, claim=claim, way=self._way(principal))

    async def token(self, principal: Principal, available: AvailableAccounts, name: str) -> AccountToken:
        """Return the access token of an available account, renewed if that is due.

        Raises:
            BackendError: the account is revoked, or its expired token cannot be renewed now.
            ConfigurationError: the master key that encrypted it is missing.
        """
        value = available.cached.get(name)
        if value is None:
            provider, stored = available.providers[name], available.stored[name]
            try:
                value = await self._needed_tokens().access(principal, provider, stored, available.claim)
            except AccountNeededError as exc:
                exc.connect_by(available.way.at(name))
                raise
        return AccountToken(name, value)

    async def rotate(self) -> Rotation:
        """Encrypt all accounts with the first master key; an interrupted rotation can be resumed.

        It checks no role: operators call it, who have the master keys and the database. No token is returned.
        """
        tokens, done, after = self._needed_tokens(), 0, UserId(UUID(int=0))
        unopened: list[UnopenedSecret] = []
        while batch := await self._ports.store.sealed(after, _BATCH):
            after = max(old.account.user_id for old in batch)
            for old in batch:
                account = old.account
                try:
                    opened = tokens.open_(old)
                except AgentApiError as exc:  # one undecryptable account must not stop the rotation of the rest
                    name = f"account {account.provider} of user {account.user_id}"
                    unopened.append(UnopenedSecret.of(name, old.key_id, exc))
                    continue
                if old.key_id != tokens.key_id:
                    done += await self._ports.store.replace(old, tokens.seal(account, opened))
        return Rotation(done, unopened)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Renew tokens until the context ends."""
        async with AsyncExitStack() as stack:
            if self._tokens is not None:
                await stack.enter_async_context(self._tokens.open())
            yield self

    def _way(self, principal: Principal) -> WayToConnect:
        """Return how a principal connects accounts: the page knows those who sign in at its issuers."""
        if principal.via in self._page_issuers:
            return WayToConnect(self._page, has_command=self._page is None)
        # The owner of a personal token is the machine's user, who has the commands, or somebody who signs in.
        if principal.via.startswith(VIA_PERSONAL) and self._page_issuers:
            return WayToConnect(self._page)
        return WayToConnect()

    async def _revoke(self, stored: SealedAccount) -> bool:
        """Revoke the tokens; a failure is logged and told, since the account is gone here already."""
        provider = self._providers.get(stored.account.provider)
        try:
            if provider is None or self._tokens is None:
                return False
            opened: Tokens = self._tokens.open_(stored)
            return await self._ports.flows(provider).revoke(provider, opened)
        except (FlowRefusedError, FlowUnavailableError, AgentApiError) as exc:
            extra = {"provider": stored.account.provider, "reason": str(exc)[:200]}
            _log.warning("account_not_revoked", extra=extra)
            return False

    async def _record(self, principal: Principal, action: AuditAction, name: str) -> None:
        target, details = AuditTarget("account", name), AuditDetails(provider=name)
        await self._audit.record(principal, action, target=target, details=details)

    def _failed(self, provider: AccountProvider, exc: Exception) -> AgentApiError:
        """Log the reason, and return the error for the user."""
        _log.info("account_not_connected", extra={"provider": provider.name, "reason": str(exc)[:200]})
        if isinstance(exc, FlowUnavailableError):
            return IssuerUnavailableError(f"{provider.name} cannot be reached now; try again in a moment.")
        return NotAuthenticatedError(f"{provider.name} did not connect the account: {exc}. Begin again.")

    def _needed_tokens(self) -> AccountTokens:
        if self._tokens is None:
            raise ConfigurationError(
                "This server connects no accounts: it has no master key to seal their tokens with. Set "
                "AGENTAPI_MASTER_KEY, AGENTAPI_MASTER_KEY_FILE or AGENTAPI_MASTER_KEY_COMMAND; "
                "`agentapi-mcp secrets generate` makes one."
            )
        return self._tokens
