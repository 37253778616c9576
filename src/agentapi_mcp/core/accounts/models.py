"""Models of connected accounts."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import SecretStr

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.core.keys.models import plain_provider

_RENEW_BEFORE = timedelta(minutes=1)
_RENEW_AT_LAST = 10  # of an access token with a long life, its last tenth


class AccountKind(StrEnum):
    """How accounts are connected: OpenRouter's own flow, Google's OAuth, or OAuth by a server's metadata."""

    OPENROUTER = "openrouter"
    GOOGLE = "google"
    OAUTH = "oauth"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountProvider:
    """A provider declared in the operator's file where users connect accounts.

    `pays_for` has the providers of models whose turns an account pays, `agents` those agents; None means all.
    """

    name: str
    kind: AccountKind
    issuer: str
    client_id: str | None = None
    client_secret: SecretStr | None = None
    scopes: tuple[str, ...] = ()
    pays_for: frozenset[str] = frozenset()
    agents: frozenset[str] | None = None

    def serves(self, agent: str, provider: str) -> bool:
        """Return whether an account pays for an agent's turns with a model of the provider."""
        return plain_provider(provider) in self.pays_for and (self.agents is None or agent in self.agents)


class AccountState(StrEnum):
    """State of an account; the provider refuses to renew the access of a revoked one."""

    CONNECTED = "connected"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens that a provider issued; `expires_at` None means that the access token does not expire."""

    access: SecretStr
    refresh: SecretStr | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()

    @classmethod
    def issued(
        cls, access: str, refresh: str | None = None, expires_at: datetime | None = None, scopes: tuple[str, ...] = ()
    ) -> "Tokens":
        """Take tokens as the provider sent them."""
        hidden = None if refresh is None else SecretStr(refresh)
        return cls(access=SecretStr(access), refresh=hidden, expires_at=expires_at, scopes=scopes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user's account at a provider, without its tokens; `issued_at` is when the access token was issued."""

    user_id: UserId
    provider: str
    connected_at: datetime
    issued_at: datetime
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()
    state: AccountState = AccountState.CONNECTED

    @property
    def renew_at(self) -> datetime | None:
        """When to renew the access token: a minute before it expires, or a tenth of its life; None for never."""
        if self.expires_at is None:
            return None
        life = self.expires_at - self.issued_at
        # A life of a few minutes has a tenth of less than a minute, and one of seconds must not begin renewable.
        return self.expires_at - min(max(_RENEW_BEFORE, life / _RENEW_AT_LAST), life / 2)

    def renewed(self, at: datetime, tokens: Tokens) -> "Account":
        """Return the account with the times of new tokens."""
        return Account(
            user_id=self.user_id,
            provider=self.provider,
            connected_at=self.connected_at,
            issued_at=at,
            expires_at=tokens.expires_at,
            scopes=tokens.scopes,
        )


def account_place(user_id: object, provider: str) -> tuple[str, ...]:
    """Return the associated data of the sealed tokens of an account."""
    # Bound into the encryption: write access to rows must not allow to move tokens to another user or provider.
    return "public.mcp_sessions.oauth_data", str(user_id), provider


@dataclass(frozen=True, slots=True)
class SealedAccount:
    """An account with its encrypted tokens, and the id of the master key."""

    account: Account
    sealed: bytes = field(repr=False)
    key_id: str


@dataclass(frozen=True, slots=True)
class AccountToken:
    """An access token for a turn, and the account that it is of."""

    provider: str
    value: SecretStr


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A removed account: `is_revoked` says whether the provider confirmed that its tokens are void."""

    account: Account
    is_revoked: bool

    @property
    def sentences(self) -> tuple[str, str]:
        """What its user is told."""
        provider = self.account.provider
        removed = f"Removed your account at {provider}; nothing is sent with it any more."
        if self.is_revoked:
            return removed, f"Its tokens are revoked at {provider}, too."
        what_else = "end them on its page of connected programs or keys"
        return removed, f"Its tokens could not be revoked at {provider}: {what_else}."
