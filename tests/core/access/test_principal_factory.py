"""Principals as they are made of rows and credentials."""

from datetime import UTC, datetime

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.models import Account, Membership, Service
from agentapi_mcp.core.access.principal_factory import Credential, local_owner, member, service, without_scopes
from agentapi_mcp.core.identity.principals import Action, Exceptions, Role, TokenScope

USER, ORG, OTHER_ORG = UserId(new_id()), OrgId(new_id()), OrgId(new_id())
ENDS = datetime(2026, 1, 1, tzinfo=UTC)
CREDENTIAL = Credential(via="https://issuer.example", scopes=frozenset({TokenScope.READ}), expires_at=ENDS)
PERMISSIONS = {"agentapi": {"sessions:chat": False}}
NO_CHAT = Exceptions(denied=frozenset({Action.CHAT}))


def test_the_local_user_owns_their_organisation_without_a_limit() -> None:
    made = local_owner(USER, ORG)
    assert (made.user_id, made.org_id, made.role, made.scopes) == (USER, ORG, Role.OWNER, None)
    assert (made.via, made.expires_at, made.exceptions) == ("local", None, Exceptions())


def test_a_member_has_the_rights_of_the_membership_within_the_limits_of_the_credential() -> None:
    made = member(USER, Membership(ORG, "editor", PERMISSIONS), {"editor": Role.ADMIN}, CREDENTIAL)
    assert (made.user_id, made.org_id, made.role, made.exceptions) == (USER, ORG, Role.ADMIN, NO_CHAT)
    assert (made.via, made.scopes, made.expires_at) == ("https://issuer.example", {TokenScope.READ}, ENDS)


def test_a_member_without_a_credential_is_at_the_machine() -> None:
    made = member(USER, Membership(ORG, "member"), {})
    assert (made.role, made.via, made.scopes, made.expires_at) == (Role.MEMBER, "local", None, None)


def test_a_program_is_what_the_operator_declares_and_not_what_its_row_says() -> None:
    account = Account(USER, OTHER_ORG, (Membership(OTHER_ORG, "owner", PERMISSIONS),), is_service=True)
    made = service(account, Service(org_id=ORG, role=Role.VIEWER), CREDENTIAL)
    assert (made.user_id, made.org_id, made.role, made.exceptions) == (USER, ORG, Role.VIEWER, NO_CHAT)
    assert (made.via, made.scopes, made.expires_at) == ("https://issuer.example", {TokenScope.READ}, ENDS)


def test_without_scopes_everything_else_stays() -> None:
    limited = member(USER, Membership(ORG, "viewer", PERMISSIONS), {}, CREDENTIAL)
    made = without_scopes(limited)
    assert made.scopes is None
    assert (made.user_id, made.org_id, made.role, made.exceptions) == (USER, ORG, Role.VIEWER, NO_CHAT)
    assert (made.via, made.expires_at) == (limited.via, ENDS)
