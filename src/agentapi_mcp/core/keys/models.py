"""Models of API keys, and of requests for keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import SecretStr
from typing_extensions import override

from agentapi_mcp.base.ids import ApiKeyId, OrgId, UserId
from agentapi_mcp.core.access.models import LoginBegun


class KeySource(StrEnum):
    """Source of the key used for a provider; SERVER is the operator's, if the provider needs one.

    ACCOUNT is the account that the user connected at the provider. UNKNOWN is read from turns of a later version of the
    program, which knows more sources, and is never written.
    """

    USER = "user"
    ACCOUNT = "account"
    ORGANIZATION = "organization"
    SERVER = "server"
    UNKNOWN = "unknown"

    @classmethod
    @override
    def _missing_(cls, value: object) -> "KeySource":
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """A user in an organisation, or with no user the organisation itself."""

    org_id: OrgId
    user_id: UserId | None = None

    @property
    def key_source(self) -> KeySource:
        """The source that a key of this owner has."""
        return KeySource.ORGANIZATION if self.user_id is None else KeySource.USER


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key without its secret; `model` None means all models of the provider."""

    id: ApiKeyId
    owner: KeyOwner
    name: str
    provider: str
    model: str | None
    last_four: str | None
    active: bool
    created_at: datetime
    last_used_at: datetime | None


def key_place(
    org_id: object, user_id: object | None, key_id: object, provider: str, model: str | None
) -> tuple[str, ...]:
    """Return the associated data of a sealed key: its table, owner, id, provider and model."""
    # Bound into the encryption: write access to rows must not allow to move a key to another owner or provider.
    whose = str(user_id or "organization")
    return "agentapi.user_api_keys", str(org_id), whose, str(key_id), provider, model or ""


@dataclass(frozen=True, slots=True)
class SealedKey:
    """An encrypted key, with the id of its master key."""

    key: ApiKey
    sealed: bytes = field(repr=False)
    key_id: str


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A decrypted key for use with its provider."""

    key: ApiKey
    value: SecretStr

    @property
    def key_source(self) -> KeySource:
        """The source of the key."""
        return self.key.owner.key_source


@dataclass(frozen=True, slots=True)
class PaidBy:
    """With what a turn is asked: whose key or account, of which provider, and which stored key, if it is one."""

    source: KeySource = KeySource.SERVER
    provider: str | None = None
    key: ApiKeyId | None = None


def plain_provider(name: str) -> str:
    """Normalise a provider's name for comparison."""
    return name.strip().lower()


@dataclass(frozen=True, slots=True)
class Rotation:
    """Result of a rotation: the number of re-encrypted secrets, and of undecryptable ones by master key id."""

    sealed: int
    unopened: Mapping[str, int]


class PagePurpose(StrEnum):
    """The purpose of a page that a link opens: to enter a key, or to connect an account."""

    KEY = "key"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who signed in on a page, at which issuer and for which organisation; it says nothing about their rights."""

    user_id: UserId
    org_id: OrgId
    issuer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A request for a key or an account: the user and issuer that may bring it, and the provider.

    `token_sha256` identifies it.
    """

    token_sha256: bytes = field(repr=False)
    user_id: UserId
    org_id: OrgId
    issuer: str
    provider: str
    expires_at: datetime
    purpose: PagePurpose = PagePurpose.KEY

    @property
    def visitor(self) -> Visitor:
        """The only visitor who may bring it."""
        return Visitor(user_id=self.user_id, org_id=self.org_id, issuer=self.issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Progress of a page visit: `login` while the visitor signs in, then `form_token`.

    `subject` is the identity at the issuer that signed in; a visit that an earlier version admitted does not say it.
    `token_sha256` is that of the request that the visit serves. A visit without one at its sign-in belongs to the
    `visitor` who signed in, and ends at `ends_at`, whatever it serves later. `connecting` is what was begun at the
    provider of an account. `notices` are sentences for the next page, which tells them once.
    """

    token_sha256: bytes = field(default=b"", repr=False)
    login: LoginBegun | None = None
    form_token: str | None = field(default=None, repr=False)
    connecting: LoginBegun | None = None
    visitor: Visitor | None = None
    ends_at: datetime | None = None
    notices: tuple[str, ...] = ()
    subject: str | None = None
