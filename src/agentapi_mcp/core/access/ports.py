"""Ports of access: storage, and authenticators."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import (
    Account,
    AccountNames,
    FoundToken,
    Invitation,
    LoginAnswer,
    LoginBegun,
    LoginDone,
    MemberList,
    Membership,
    MembershipStatus,
    OrganizationMember,
    OwnMembership,
    PersonalToken,
    Service,
    SignInRules,
)
from agentapi_mcp.core.identity.principals import Principal, Role


class MemberStore(Protocol):
    """Memberships and invitations.

    Raises:
        ConfigurationError: from each method that writes, if another program manages the memberships of the database.
    """

    async def list_(self, principal: Principal, now: datetime) -> MemberList:
        """List members and open invitations of the principal's organisation, by e-mail."""
        ...

    async def of_user(self, principal: Principal) -> tuple[OwnMembership, ...]:
        """List all memberships of the principal's user, whatever their status, by the name of the organisation."""
        ...

    async def invite(self, principal: Principal, invitation: Invitation) -> None:
        """Store an invitation, replacing an earlier one for the same address."""
        ...

    async def withdraw(self, principal: Principal, email: str) -> bool:
        """Withdraw an invitation; False when there is none."""
        ...

    async def change(
        self,
        principal: Principal,
        user_id: UserId,
        role: str | None,
        check: Callable[[Sequence[OrganizationMember]], None],
    ) -> None:
        """Change the role of a member, or remove the membership with None, while holding the lock on all members.

        `check` receives the current members; an exception from it rolls back the change.
        """
        ...

    async def create_organization(self, operator: Principal, org_id: OrgId, name: str) -> None:
        """Create an organisation with the operator as its first owner."""
        ...


class Authenticator(Protocol):
    """Verify access tokens, and sign in the visitors of this server's pages."""

    def issuers(self) -> tuple[str, ...]:
        """List the authorization servers whose tokens are accepted."""
        ...

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of a token.

        Raises:
            NotAuthenticatedError: the token is not valid for this server.
            PermissionDeniedError: its owner has no account or organisation here.
        """
        ...

    def roles(self) -> Mapping[str, Role]:
        """Return the aliases of roles in this database."""
        ...

    def can_log_in(self, issuer: str) -> bool:
        """Return whether visitors of this server's pages can sign in at this issuer."""
        ...

    async def begin_login(self, issuer: str, redirect_uri: str, *, anew: bool = False) -> LoginBegun:
        """Start a login and return the URL to redirect the visitor to; `anew` asks the issuer to forget who they were.

        Raises:
            NotAuthenticatedError: the issuer is unavailable, or has no client id for this server.
        """
        ...

    async def finish_login(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> LoginDone:
        """Complete a login and return who signed in.

        Raises:
            NotAuthenticatedError: the visitor did not sign in, or the callback does not match the login.
            PermissionDeniedError: they have no account or organisation here.
        """
        ...

    async def is_linked(self, issuer: str, subject: str | None, user_id: UserId) -> bool:
        """Return whether this subject of the issuer still leads to the user; with None, whether any does."""
        ...

    async def reload(self, rules: SignInRules) -> None:
        """Replace the sign-in rules."""
        ...


class ProfileStore(Protocol):
    """Users and organisations."""

    async def local_principal(self) -> Principal:
        """Find the local user and personal organisation; in a database of this program, create them on first use."""
        ...

    async def find_local_principal(self) -> Principal | None:
        """Find the local user, who is not there before the first start."""
        ...

    async def find_membership(self, user_id: UserId, org_id: OrgId) -> Membership | None:
        """Find the membership of a user in an organisation."""
        ...

    async def find_names(self, user_id: UserId, org_id: OrgId) -> AccountNames:
        """Find the e-mail address of a user and the name of an organisation."""
        ...

    async def membership_statuses(
        self, members: Collection[tuple[UserId, OrgId]]
    ) -> Mapping[tuple[UserId, OrgId], MembershipStatus]:
        """Return whether each of these users may use the organisation now."""
        ...


class IdentityStore(Protocol):
    """Accounts by issuer and subject; concurrent first sign-ins get the same account."""

    async def find(self, issuer: str, subject: str) -> Account | None:
        """Find the account linked to the identity."""
        ...

    async def is_linked(self, issuer: str, subject: str | None, user_id: UserId) -> bool:
        """Return whether this identity leads to the user; with None for the subject, whether any of the issuer does."""
        ...

    async def link_workos(self, issuer: str, subject: str) -> Account | None:
        """Link the identity to the profile whose `workos_id` is the subject."""
        ...

    async def link_profile(self, issuer: str, subject: str) -> Account | None:
        """Link the identity to the profile whose id is the subject."""
        ...

    async def link_email(self, issuer: str, subject: str, email: str) -> Account | None:
        """Link the identity to the profile with this e-mail; None unless exactly one is not linked yet."""
        ...

    async def create(
        self, issuer: str, subject: str, *, email: str | None, name: str | None, org_id: OrgId | None, role: str
    ) -> Account:
        """Create an account, in the organisation or else in a new personal one.

        Raises:
            ConfigurationError: another program manages the profiles of this database.
        """
        ...

    async def accept_invitations(
        self, issuer: str, subject: str, *, email: str, name: str | None, user_id: UserId | None
    ) -> Account | None:
        """Accept all invitations for this e-mail, creating the account if there is none.

        Without an invitation nothing is changed, and the result is None.
        """
        ...

    async def place_service(self, issuer: str, subject: str, service: Service) -> Account | None:
        """Find or create a service account in its declared organisation; None when the identity is a user's.

        Raises:
            ConfigurationError: the database does not allow it; the message explains why.
        """
        ...


class PersonalTokenStore(Protocol):
    """Personal tokens by their hashes."""

    async def add(self, token: PersonalToken, token_hash: bytes, *, most: int) -> None:
        """Store a new token, or raise ConflictError for its name, LimitExceededError at `most` tokens."""
        ...

    async def list_(self, principal: Principal) -> tuple[PersonalToken, ...]:
        """List the principal's tokens that are not revoked, newest first."""
        ...

    async def revoke(self, principal: Principal, token_id: UUID, at: datetime) -> bool:
        """Revoke a token of the principal; False when there is none, or it was revoked before."""
        ...

    async def find(self, token_hashes: Collection[bytes]) -> Mapping[bytes, FoundToken]:
        """Find tokens by their hashes, also revoked and expired ones, with the current membership of their owners."""
        ...

    async def record_use(self, token_id: UUID, at: datetime) -> None:
        """Record the last use of a token."""
        ...
