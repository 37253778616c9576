"""API keys, and requests to users for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import SecretStr

from agentapi_mcp.base.ids import ApiKeyId, OrgId, UserId
from agentapi_mcp.core.access.models import LoginBegun


class KeySource(StrEnum):
    """Whose key a provider was asked with; the server's is what the operator's file names, if any is needed."""

    USER = "user"
    ORGANIZATION = "organization"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """A user in an organisation, or with no user the organisation itself."""

    org_id: OrgId
    user_id: UserId | None = None

    @property
    def whose(self) -> KeySource:
        """What the owner is to somebody who uses the key."""
        return KeySource.ORGANIZATION if self.user_id is None else KeySource.USER


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What may be known of a key; with no model it is for all of the provider's."""

    id: ApiKeyId
    owner: KeyOwner
    name: str
    provider: str
    model: str | None
    last_four: str | None
    active: bool
    created_at: datetime
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A key as it is kept, and the id of the master key that sealed it."""

    key: ApiKey
    sealed: bytes = field(repr=False)
    key_id: str


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A key as a provider takes it."""

    key: ApiKey
    value: SecretStr

    @property
    def whose(self) -> KeySource:
        """Whose it is."""
        return self.key.owner.whose


def plain_provider(name: str) -> str:
    """Write a provider's name as it is compared: in small letters."""
    return name.strip().lower()


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many secrets were sealed again, and how many could not be, by the master key that would open them."""

    sealed: int
    unopened: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """Who may enter a key for which provider, when they have signed in at this issuer; `token_sha256` names it."""

    token_sha256: bytes = field(repr=False)
    user_id: UserId
    org_id: OrgId
    issuer: str
    provider: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """How far a visitor of the page is: sent to sign in with `login`, or signed in with a token for the form."""

    token_sha256: bytes = field(repr=False)
    login: LoginBegun | None = None
    form_token: str | None = field(default=None, repr=False)
