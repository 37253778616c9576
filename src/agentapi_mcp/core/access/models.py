"""Models of accounts, memberships, invitations, sign-in rules and personal tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import SecretStr

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationMember:
    """A member of an organisation; `role` is as stored, and a service is declared in the operator's file."""

    user_id: UserId
    role: str
    email: str | None = None
    is_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An invitation for a verified e-mail address, in lower case; its owner becomes a member at first sign-in."""

    email: str
    role: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """Members and open invitations of an organisation."""

    members: tuple[OrganizationMember, ...]
    invitations: tuple[Invitation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalToken:
    """A personal access token, without its secret; `last_four` identifies it to its owner.

    `toolsets` are those that its clients see; None means the server's.
    """

    id: UUID
    user_id: UserId
    org_id: OrgId
    name: str
    last_four: str
    scopes: frozenset[TokenScope]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    toolsets: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A new token with its secret, which is returned only once."""

    secret: str = field(repr=False)
    token: PersonalToken


# Asymmetric algorithms only: with a shared secret every verifier could also sign (RFC 8725, section 3.1).
ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


class SubjectIs(StrEnum):
    """How the subjects of an issuer relate to existing rows of `profiles`."""

    OWN = "own"
    WORKOS_ID = "workos_id"
    PROFILE_ID = "profile_id"


class Newcomers(StrEnum):
    """How a first-time user without membership is handled."""

    NONE = "none"
    INVITED = "invited"
    DOMAIN = "domain"
    PERSONAL = "personal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service account that the operator declares, with its organisation and role.

    Its tokens are recognised by `client_id` if they are marked as client credentials, or else by `subject`.
    """

    org_id: OrgId
    client_id: str | None = None
    subject: str | None = None
    role: Role = Role.MEMBER
    name: str | None = None

    @property
    def label(self) -> str:
        """The name to display."""
        return self.name or self.client_id or self.subject or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An authorization server that the operator declares, whose access tokens are accepted.

    `audience` is the required audience of its tokens, by default this server's resource URL (RFC 8707). `jwks_uri`
    is read from its metadata if it is not given (RFC 8414, OpenID Connect Discovery 1.0). `organizations` maps values
    of `organization_claim` to organisations. `client_id` enables sign-in for the pages of this server. `services` are
    the service accounts that are accepted.
    """

    issuer: str
    audience: str | None = None
    jwks_uri: str | None = None
    algorithms: tuple[str, ...] = ASYMMETRIC
    subject_is: SubjectIs = SubjectIs.OWN
    needs_scopes: bool = True
    trusts_email: bool = False
    organization_claim: str | None = None
    newcomers: Newcomers = Newcomers.NONE
    domains: Mapping[str, OrgId] = field(default_factory=dict[str, OrgId])
    organizations: Mapping[str, OrgId] = field(default_factory=dict[str, OrgId])
    client_id: str | None = None
    client_secret: SecretStr | None = None
    services: tuple[Service, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInRules:
    """Accepted issuers, and aliases of roles in this database, in lower case."""

    issuers: tuple[Issuer, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict[str, Role])

    @property
    def page_issuers(self) -> frozenset[str]:
        """The issuers where visitors of this server's pages can sign in."""
        return frozenset(issuer.issuer for issuer in self.issuers if issuer.client_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """Claims of a verified access token; `email` is set only if the issuer marks it as verified.

    `is_service` is true for a program's own token (client credentials grant), which represents no user.
    """

    issuer: Issuer
    subject: str
    scopes: frozenset[str]
    expires_at: datetime
    client_id: str | None = None
    organization: str | None = None
    email: str | None = None
    name: str | None = None
    is_service: bool = False


class MembershipStatus(StrEnum):
    """Whether a user may use an organisation.

    The application of an existing database suspends users and deletes organisations in columns of its own.
    """

    ACTIVE = "active"
    REMOVED = "removed"
    SUSPENDED = "suspended"
    ORGANIZATION_DELETED = "organization_deleted"


@dataclass(frozen=True, slots=True)
class Membership:
    """Membership of an account in an organisation; `role` and `permissions` are as stored."""

    org_id: OrgId
    role: str
    permissions: object = None
    status: MembershipStatus = MembershipStatus.ACTIVE


@dataclass(frozen=True, slots=True)
class OwnMembership:
    """A membership of one's own, with the name of the organisation."""

    membership: Membership
    organization: str


@dataclass(frozen=True, slots=True)
class OwnOrganization:
    """An organisation of a user's; `principal` is the user in it, with their rights there."""

    name: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class AccountNames:
    """What a user knows their account and organisation by; None if there is nothing."""

    account: str | None
    organization: str | None


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A token, with the current membership of its owner in its organisation; None when they have left."""

    token: PersonalToken
    membership: Membership | None


@dataclass(frozen=True, slots=True)
class Account:
    """A user with their memberships by organisation id; `current` is the organisation that they selected.

    `is_service` is true for a service account.
    """

    user_id: UserId
    current: OrgId | None
    memberships: tuple[Membership, ...] = ()
    is_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginBegun:
    """A started login: the URL to redirect to, and the state and PKCE verifier to keep until the callback."""

    issuer: str
    url: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoginDone:
    """A completed login: who signed in, and the subject of the issuer that leads to them."""

    principal: Principal
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAnswer:
    """Parameters of the login callback; None means absent."""

    state: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    issuer: str | None = None
    error: str | None = None
