"""Keys of providers that users and organisations brought."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import SecretStr

from agentapi_mcp.core.identity import OrgId, UserId
from agentapi_mcp.core.records.ids import ApiKeyId


class Whose(StrEnum):
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
    def whose(self) -> Whose:
        """What the owner is to somebody who uses the key."""
        return Whose.ORGANIZATION if self.user_id is None else Whose.USER


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
    def whose(self) -> Whose:
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
