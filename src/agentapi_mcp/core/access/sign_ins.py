"""Resolve verified token claims to a principal: account, organisation and role."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from uuid import UUID

from agentapi_mcp.base.errors import ConfigurationError, PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.access.models import (
    Account,
    Issuer,
    Membership,
    MembershipStatus,
    Newcomers,
    SubjectIs,
    TokenClaims,
)
from agentapi_mcp.core.access.ports import IdentityStore
from agentapi_mcp.core.access.principal_factory import Credential, member, service
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope

NO_ROLES: Mapping[str, Role] = MappingProxyType({})
_log = logging.getLogger(__name__)
_NO_ACCOUNT = "You are signed in, but have no account here; ask an administrator of your organisation to let you in."
_NO_ORGANIZATION = "You are a member of no organisation here; ask an administrator to let you in."
_NOT_YOURS = "Your token is for an organisation of which you are no member here."
_NOT_DECLARED = (
    "This is a token of a program, and the program {client_id!r} has no place here: the operator declares it under "
    "[[issuers.services]] in agentapi.toml, with its client_id and an organization."
)
_NO_PROGRAM = (
    "This is a token of a program, and the account that it leads to is a person's: if nobody has that account, the "
    "operator deletes its row in agentapi.identities."
)
_NO_PERSON = (
    "The account that this token leads to is a program's, and the token does not say that it is one: the operator "
    "declares its subject under [[issuers.services]] in agentapi.toml."
)


class SignIns:
    """Resolve claims to principals, for every request: revoked rights take effect at once."""

    def __init__(self, store: IdentityStore, audit: AuditLog) -> None:
        self._store = store
        self._audit = audit

    async def principal_of(self, claims: TokenClaims, roles: Mapping[str, Role] = NO_ROLES) -> Principal:
        """Return the principal of a token; `roles` maps aliases of roles.

        Raises:
            PermissionDeniedError: there is no account, or no active membership in the organisation of the token.
            ConfigurationError: the account of a service cannot be created as declared.
        """
        if claims.is_service:
            return await self._service(claims)
        account = await self._store.find(claims.issuer.issuer, claims.subject)
        if account is None:
            account = await self._first(claims)
        elif not account.memberships and not account.is_service:
            # A former member can be invited again.
            account = await self._invited(claims, account.user_id) or account
        if account is None:
            raise PermissionDeniedError(_NO_ACCOUNT)
        if account.is_service:
            raise PermissionDeniedError(_NO_PERSON)
        return member(account.user_id, _membership(account, claims), roles, _credential(claims))

    async def is_linked(self, issuer: str, subject: str | None, user_id: UserId) -> bool:
        """Return whether who signed in by this subject is the user still, as their next token would be."""
        return await self._store.is_linked(issuer, subject, user_id)

    async def _service(self, claims: TokenClaims) -> Principal:
        """Return the principal of a declared service; its account is never that of a user."""
        client_id = claims.client_id or claims.subject
        by_subject = (each for each in claims.issuer.services if each.subject == claims.subject)
        by_client = (each for each in claims.issuer.services if each.client_id == client_id)
        declared = next(chain(by_subject, by_client), None)
        if declared is None:
            raise PermissionDeniedError(_NOT_DECLARED.format(client_id=client_id))
        if claims.organization is not None and _organization(claims.issuer, claims.organization) != declared.org_id:
            raise PermissionDeniedError(_NOT_YOURS)
        try:
            account = await self._store.place_service(claims.issuer.issuer, claims.subject, declared)
        except ConfigurationError as exc:
            _log.warning("program_has_no_place", extra={"client_id": client_id, "reason": str(exc)})
            raise
        if account is None:
            raise PermissionDeniedError(_NO_PROGRAM)
        # Role and organisation come from the declaration, so that a changed row cannot raise the rights of a service.
        return service(account, declared, _credential(claims))

    async def _first(self, claims: TokenClaims) -> Account | None:
        issuer, subject = claims.issuer, claims.subject
        account, reason = await self._known(claims), "known"
        if account is None or not account.memberships:
            invited = await self._invited(claims, account and account.user_id)
            if invited is not None:
                return invited
        if account is None and issuer.newcomers in {Newcomers.DOMAIN, Newcomers.PERSONAL}:
            org_id = _by_domain(issuer, claims.email)
            if org_id is not None or issuer.newcomers is Newcomers.PERSONAL:
                reason = "new"
                try:
                    account = await self._store.create(
                        issuer.issuer, subject, email=claims.email, name=claims.name, org_id=org_id, role="member"
                    )
                except ConfigurationError as exc:  # concerns the operator; the user only sees that they have no account
                    _log.warning("newcomer_not_made", extra={"issuer": issuer.issuer, "reason": str(exc)})
        if account is not None:
            _log.info("first_sign_in", extra={"issuer": issuer.issuer, "user_id": str(account.user_id)})
            await self._record(account, claims, reason)
        return account

    async def _invited(self, claims: TokenClaims, user_id: UserId | None) -> Account | None:
        """Accept invitations, if the operator trusts the e-mail addresses of the issuer."""
        issuer = claims.issuer
        if claims.email is None or issuer.newcomers not in {Newcomers.INVITED, Newcomers.DOMAIN}:
            return None
        account = await self._store.accept_invitations(
            issuer.issuer, claims.subject, email=claims.email, name=claims.name, user_id=user_id
        )
        if account is not None:
            _log.info("invitation_accepted", extra={"issuer": issuer.issuer, "user_id": str(account.user_id)})
            await self._record(account, claims, "invited")
        return account

    async def _record(self, account: Account, claims: TokenClaims, reason: str) -> None:
        """Record in the audit log that the identity is linked to an account."""
        if account.memberships:
            # The link is made also where the user is suspended, who is refused after that.
            membership = replace(account.memberships[0], status=MembershipStatus.ACTIVE)
            principal = member(account.user_id, membership, NO_ROLES, Credential(via=claims.issuer.issuer))
            target = AuditTarget("account", str(account.user_id))
            await self._audit.record(
                principal, AuditAction.IDENTITY_LINKED, target=target, details=AuditDetails(reason=reason)
            )

    async def _known(self, claims: TokenClaims) -> Account | None:
        """Link the identity to an existing profile."""
        issuer, subject = claims.issuer, claims.subject
        account: Account | None = None
        match issuer.subject_is:
            case SubjectIs.WORKOS_ID:
                account = await self._store.link_workos(issuer.issuer, subject)
            case SubjectIs.PROFILE_ID:
                account = await self._store.link_profile(issuer.issuer, subject)
            case SubjectIs.OWN:
                pass
        if account is None and issuer.trusts_email and claims.email is not None:
            account = await self._store.link_email(issuer.issuer, subject, claims.email)
        return account


def scopes_of(claims: TokenClaims) -> frozenset[TokenScope] | None:
    """Return the scopes of a token; None means no restriction."""
    named = frozenset(scope for scope in TokenScope if {str(scope), f"agentapi:{scope}"} & claims.scopes)
    return named if named or claims.issuer.needs_scopes else None


def _credential(claims: TokenClaims) -> Credential:
    return Credential(via=claims.issuer.issuer, scopes=scopes_of(claims), expires_at=claims.expires_at)


def _membership(account: Account, claims: TokenClaims) -> Membership:
    """Choose the organisation: the token's, else the one that the user selected, else the first.

    Of the last two, one that may not be used is left out unless there is no other.
    """
    by_id = {membership.org_id: membership for membership in account.memberships}
    if claims.organization is not None:
        bound = _organization(claims.issuer, claims.organization)
        if bound is None or bound not in by_id:
            raise PermissionDeniedError(_NOT_YOURS)
        return by_id[bound]
    if not account.memberships:
        raise PermissionDeniedError(_NO_ORGANIZATION)
    ordered = sorted(account.memberships, key=lambda each: each.org_id != account.current)
    return next((each for each in ordered if each.status is MembershipStatus.ACTIVE), ordered[0])


def _organization(issuer: Issuer, claim: str) -> OrgId | None:
    if claim in issuer.organizations:
        return issuer.organizations[claim]
    try:
        return OrgId(UUID(claim))
    except ValueError:
        return None


def _by_domain(issuer: Issuer, email: str | None) -> OrgId | None:
    return None if email is None else issuer.domains.get(email.rpartition("@")[2])
