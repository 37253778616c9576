"""Accounts, memberships, invitations, sign-in rules and personal tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import SecretStr

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.identity.principals import Role, TokenScope


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationMember:
    """A user of an organisation; `role` is as it is written there, a service is a program that a file declares."""

    user_id: UserId
    role: str
    email: str | None = None
    is_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Whoever first signs in with this verified e-mail, in lower case, becomes a member."""

    email: str
    role: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """Everybody of an organisation."""

    members: tuple[OrganizationMember, ...]
    invitations: tuple[Invitation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalToken:
    """A token that somebody made for a program of theirs; its last four characters tell it from others."""

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


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token with its secret, which is told this once."""

    secret: str = field(repr=False)
    token: PersonalToken


# What signs with a private key; no shared secret ever verifies a token here (RFC 8725, section 3.1).
ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


class SubjectIs(StrEnum):
    """What the subjects of an issuer are in `profiles`, where they are there already."""

    OWN = "own"
    WORKOS_ID = "workos_id"
    PROFILE_ID = "profile_id"


class Newcomers(StrEnum):
    """What becomes of somebody who signs in for the first time and is a member of nothing."""

    NONE = "none"
    INVITED = "invited"
    DOMAIN = "domain"
    PERSONAL = "personal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A program that has a token of its own, as the operator declares it: what it is, and where.

    Its tokens are known by one of the two: `client_id` where they tell that they are a program's, or `subject`.
    """

    org_id: OrgId
    client_id: str | None = None
    subject: str | None = None
    role: Role = Role.MEMBER
    name: str | None = None

    @property
    def label(self) -> str:
        """What to call it."""
        return self.name or self.client_id or self.subject or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An authorization server whose access tokens are taken, as the operator declares it.

    `audience` is what its tokens must be made for, by default this server's resource URL (RFC 8707). `jwks_uri` is
    looked up in its metadata where it is not given (RFC 8414, OpenID Connect Discovery 1.0). `organizations`
    says which organisation a value of `organization_claim` is here. With a `client_id`, pages of
    ours sign their visitors in there. Programs with tokens of their own are let in where `services` names them.
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
    """Who may sign in, and what other words for roles mean in this database, in lower case."""

    issuers: tuple[Issuer, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict[str, Role])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a verified access token says; `email` only where the issuer says that it is verified.

    `is_service` holds for a program that has a token of its own (client credentials) and stands for no person.
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


@dataclass(frozen=True, slots=True)
class Membership:
    """What an account is in an organisation; `role` and `permissions` are as they are written there."""

    org_id: OrgId
    role: str
    permissions: object = None


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A token, and what its owner is now in the organisation that it is for; None when they have left."""

    token: PersonalToken
    membership: Membership | None


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the organisations that they are a member of, by their ids; `current` is the one they chose.

    `is_service` holds for a program's own account.
    """

    user_id: UserId
    current: OrgId | None
    memberships: tuple[Membership, ...] = ()
    is_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginBegun:
    """Where the visitor is sent, and what only we know of it until they come back."""

    issuer: str
    url: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAnswer:
    """What the issuer sends the visitor back with; None is unsaid."""

    state: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    issuer: str | None = None
    error: str | None = None
