"""Ports of access: storage, and authenticators."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import (
    Account,
    FoundToken,
    Invitation,
    LoginAnswer,
    LoginBegun,
    MemberList,
    Membership,
    OrganizationMember,
    PersonalToken,
    Service,
    SignInRules,
)
from agentapi_mcp.core.identity.principals import Principal, Role


class MemberStore(Protocol):
    """Memberships and invitations; where others write the memberships of a database, every change is refused.

    Raises:
        ConfigurationError: from each method that writes, on such a database.
    """

    async def list_(self, org_id: OrgId, now: datetime) -> MemberList:
        """List members and open invitations, by e-mail."""
        ...

    async def invite(self, org_id: OrgId, invitation: Invitation) -> None:
        """Keep an invitation, in place of an earlier one."""
        ...

    async def withdraw(self, org_id: OrgId, email: str) -> bool:
        """Take an invitation back; False when there is none."""
        ...

    async def change(
        self, org_id: OrgId, user_id: UserId, role: str | None, check: Callable[[Sequence[OrganizationMember]], None]
    ) -> None:
        """Give a member a role, or with None take the membership away, while nobody else changes any of them.

        `check` is told who is there, and what it raises leaves all as it is.
        """
        ...

    async def create_organization(self, org_id: OrgId, name: str, owner: UserId) -> None:
        """Make an organisation with its first owner."""
        ...


class Authenticator(Protocol):
    """Whom access tokens let in."""

    def issuers(self) -> tuple[str, ...]:
        """List the authorization servers whose tokens are taken."""
        ...

    async def authenticate(self, token: str) -> Principal:
        """Tell whom a token lets in.

        Raises:
            NotAuthenticatedError: it is none for this server.
            PermissionDeniedError: its owner has no account or organisation here.
        """
        ...

    def roles(self) -> Mapping[str, Role]:
        """Tell what other words for roles mean in this database."""
        ...

    def can_log_in(self, issuer: str) -> bool:
        """Tell whether pages of ours can sign a visitor in at this issuer."""
        ...

    async def begin_login(self, issuer: str, redirect_uri: str) -> LoginBegun:
        """Return where to send a visitor to sign in.

        Raises:
            NotAuthenticatedError: the issuer cannot be asked, or not by us.
        """
        ...

    async def finish_login(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> Principal:
        """Tell who came back.

        Raises:
            NotAuthenticatedError: they did not sign in, or came back with what was not asked for.
            PermissionDeniedError: they have no account or organisation here.
        """
        ...

    async def take(self, rules: SignInRules) -> None:
        """Go by these rules from now on, and by no others."""
        ...


class ProfileStore(Protocol):
    """Users and organisations."""

    async def local_principal(self) -> Principal:
        """Find the machine's user and personal organisation, made on first use in a database that is ours."""
        ...

    async def find_membership(self, user_id: UserId, org_id: OrgId) -> Membership | None:
        """Find what a user of an existing database is in an organisation."""
        ...


class IdentityStore(Protocol):
    """Whose an issuer's subject is; two first sign-ins at the same moment get one account."""

    async def find(self, issuer: str, subject: str) -> Account | None:
        """Find the account that the identity leads to."""
        ...

    async def link_workos(self, issuer: str, subject: str) -> Account | None:
        """Link it with the profile whose `workos_id` the subject is."""
        ...

    async def link_profile(self, issuer: str, subject: str) -> Account | None:
        """Link it with the profile whose id the subject is."""
        ...

    async def link_email(self, issuer: str, subject: str, email: str) -> Account | None:
        """Link it with the one profile of this e-mail that no identity leads to."""
        ...

    async def make(
        self, issuer: str, subject: str, *, email: str | None, name: str | None, org_id: OrgId | None, role: str
    ) -> Account:
        """Make an account, in the organisation or else in a personal one.

        Raises:
            ConfigurationError: profiles are somebody else's to make.
        """
        ...

    async def accept_invitations(
        self, issuer: str, subject: str, *, email: str, name: str | None, user_id: UserId | None
    ) -> Account | None:
        """Make somebody, whose account is made where there is none, a member wherever this e-mail is expected.

        None, and nothing is changed, where it is expected nowhere.
        """
        ...

    async def place_service(self, issuer: str, subject: str, service: Service) -> Account | None:
        """Find or make a program's own account, of its declared organisation alone; None when it is a person's.

        Raises:
            ConfigurationError: there is no place for it; the message says why.
        """
        ...


class PersonalTokenStore(Protocol):
    """Personal tokens by their hashes."""

    async def add(self, token: PersonalToken, token_hash: bytes, *, most: int) -> None:
        """Keep a new one, or raise ConflictError for its name, LimitExceededError where there are `most` already."""
        ...

    async def list_(self, principal: Principal) -> tuple[PersonalToken, ...]:
        """List the principal's that are not revoked, newest first."""
        ...

    async def revoke(self, principal: Principal, token_id: UUID, at: datetime) -> bool:
        """Revoke one of the principal's; False when there is none that is not revoked."""
        ...

    async def find(self, token_hash: bytes) -> FoundToken | None:
        """Find a token, whatever became of it, and what its owner is now."""
        ...

    async def note_use(self, token_id: UUID, at: datetime) -> None:
        """Note when a token was used."""
        ...
