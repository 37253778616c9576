"""What pays for a caller's turns: keys of their own, accounts that they connected, keys of their organisation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agentapi_mcp.base.errors import AccountNeededError, ConfigurationError
from agentapi_mcp.core.accounts.accounts import Accounts, AvailableAccounts
from agentapi_mcp.core.accounts.models import AccountToken
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.models import AgentDeclaration, ModelRow
from agentapi_mcp.core.identity.principals import Action, Principal, require
from agentapi_mcp.core.keys.api_keys import ApiKeys, AvailableKeys
from agentapi_mcp.core.keys.models import KeySource, ProviderKey, plain_provider


@dataclass(frozen=True, slots=True)
class Payment:
    """The key or the account of the caller to use; with neither, the operator's key."""

    key: ProviderKey | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """The keys and accounts that a principal's turns can use."""

    keys: AvailableKeys
    accounts: AvailableAccounts

    def choose(self, declaration: AgentDeclaration, backend: Backend, model: ModelRow | None) -> Payment:
        """Choose the user's key for the model, else their account, else the organisation's key.

        Raises:
            BackendError: the agent needs an account of the caller, and none is connected.
            ConfigurationError: a key cannot be opened, or the agent needs an account that cannot be used with it.
        """
        if declaration.needs_account is not None:
            if Capability.OWN_ACCOUNTS not in backend.capabilities:
                raise ConfigurationError(
                    f"The agent {declaration.name} needs an account, and its backend {declaration.backend} cannot use "
                    "one with these options."
                )
            return Payment(account=self.accounts.needed(declaration.needs_account))
        # The provider must be declared in the operator's file too: a changed row must not redirect keys to another
        # server.
        if model is None or plain_provider(model.provider) not in declaration.providers:
            return Payment()
        names, account = (model.name, model.model_id), None
        if Capability.OWN_ACCOUNTS in backend.capabilities:
            account = self.accounts.find(declaration.name, model.provider)
        if Capability.OWN_KEYS not in backend.capabilities:
            return Payment(account=account)
        if account is not None and self.keys.source(model.provider, names) is not KeySource.USER:
            return Payment(account=account)
        return Payment(self.keys.find(model.provider, names))

    def completes(self, entry: CatalogueEntry) -> CatalogueEntry:
        """Return the agent as it is for this caller, who may have the key that is missing, or lack an account."""
        declaration, model = entry.declaration, entry.default_model()
        if declaration.needs_account is not None:
            return self._with_needed(entry, declaration.needs_account)
        if entry.keyless is None or model is None or plain_provider(model.provider) not in declaration.providers:
            return entry
        has_account = Capability.OWN_ACCOUNTS in entry.keyless.capabilities and self.accounts.find(
            declaration.name, model.provider
        )
        if not has_account and not self.keys.has(model.provider, (model.name, model.model_id)):
            return entry
        return replace(entry, backend=entry.keyless, missing=())

    def _with_needed(self, entry: CatalogueEntry, name: str) -> CatalogueEntry:
        usable = entry.backend or entry.keyless
        try:
            self.accounts.needed(name)
        except (AccountNeededError, ConfigurationError):
            lacks = f"you have connected no account at {name} ({self.accounts.way.at(name)})"
            return replace(entry, backend=None, missing=entry.missing if usable is None else (lacks,))
        return entry if usable is None else replace(entry, backend=usable, missing=())


class Wallet:
    """Loads what pays for a principal's turns."""

    def __init__(self, api_keys: ApiKeys, accounts: Accounts) -> None:
        self.api_keys = api_keys
        self.accounts = accounts

    async def means(self, principal: Principal) -> Means:
        """Load the keys and accounts that the principal's turns can use."""
        require(principal, Action.CHAT)
        return Means(await self.api_keys.available(principal), await self.accounts.available(principal))

    async def token(self, principal: Principal, means: Means, account: str | None) -> AccountToken | None:
        """Return the access token of the account to use, renewed if that is due; None without an account.

        Raises:
            BackendError: the account is revoked, or its expired token cannot be renewed now.
        """
        return None if account is None else await self.accounts.token(principal, means.accounts, account)

    async def mark_used(self, principal: Principal, key: ProviderKey | None) -> None:
        """Record the use of a key."""
        if key is not None:
            await self.api_keys.mark_used(principal, key)


def usable_names(entries: Sequence[CatalogueEntry], means: Means) -> list[str]:
    """List the agents that the caller can use."""
    return [entry.name for entry in entries if means.completes(entry).usable]


NO_MEANS = Means(AvailableKeys(), AvailableAccounts())
