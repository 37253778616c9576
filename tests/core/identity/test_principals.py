"""The table of who may do what, and the one function that says no."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from agentapi_mcp.base.errors import PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.identity.principals import (
    NEEDS,
    Action,
    Exceptions,
    Principal,
    Role,
    TokenScope,
    read_exceptions,
    read_role,
    require,
)


def somebody(
    role: Role, scopes: frozenset[TokenScope] | None = None, exceptions: Exceptions | None = None
) -> Principal:
    return Principal(UserId(new_id()), OrgId(new_id()), role, scopes, exceptions or Exceptions())


def allowed(principal: Principal) -> set[Action]:
    may: set[Action] = set()
    for action in Action:
        try:
            require(principal, action)
        except PermissionDeniedError:
            continue
        may.add(action)
    return may


def test_every_action_is_in_the_table() -> None:
    assert set(NEEDS) == set(Action)


def test_each_role_may_do_what_the_one_before_may_and_the_owner_everything() -> None:
    viewer, member, admin, owner = (allowed(somebody(role)) for role in Role)
    assert viewer == {Action.READ_CATALOGUE, Action.READ_SESSIONS, Action.MANAGE_TOKENS}
    assert viewer < member < admin
    assert Action.CHAT in member
    assert Action.EDIT_ORGANIZATION not in member
    assert owner == set(Action)
    assert admin == owner - {Action.MANAGE_OWNERS}


def test_scopes_narrow_and_never_widen() -> None:
    reads = {Action.READ_CATALOGUE, Action.READ_SESSIONS}
    assert allowed(somebody(Role.OWNER, frozenset({TokenScope.READ}))) == reads
    assert allowed(somebody(Role.VIEWER, frozenset(TokenScope))) == allowed(somebody(Role.VIEWER))
    assert allowed(somebody(Role.OWNER, frozenset())) == set()


@pytest.mark.parametrize("action", Action)
def test_a_refusal_names_the_scope_only_where_the_scope_is_all_that_lacks(action: Action) -> None:
    with pytest.raises(PermissionDeniedError) as refused:
        require(somebody(Role.OWNER, frozenset()), action)
    assert refused.value.scope == NEEDS[action].scope
    assert str(refused.value).endswith("sign in again and allow it.")
    with pytest.raises(PermissionDeniedError, match="make one that has it"):
        require(replace(somebody(Role.OWNER, frozenset()), via="token:018f"), action)
    denied = Exceptions(denied=frozenset({action}))
    with pytest.raises(PermissionDeniedError) as refused:
        require(somebody(Role.OWNER, frozenset(), denied), action)
    assert refused.value.scope is None


def test_exceptions_widen_and_narrow_a_role_and_never_a_token() -> None:
    exceptions = read_exceptions({"agentapi": {"audit:read": True, "sessions:chat": False}, "audit:read": True})
    member = allowed(somebody(Role.MEMBER))
    assert allowed(somebody(Role.MEMBER, None, exceptions)) == (member | {Action.READ_AUDIT}) - {Action.CHAT}
    assert Action.READ_AUDIT not in allowed(somebody(Role.MEMBER, frozenset({TokenScope.READ}), exceptions))


@pytest.mark.parametrize(
    "permissions", [None, [], "all", {}, {"admin": True}, {"agentapi": ["audit:read"]}, {"agentapi": 1}]
)
def test_permissions_of_another_form_say_nothing(permissions: object) -> None:
    assert read_exceptions(permissions) == Exceptions()


def test_a_permission_that_is_neither_true_nor_false_denies() -> None:
    assert read_exceptions({"agentapi": {"sessions:chat": "maybe"}}).denied == {Action.CHAT}


def test_a_role_is_read_as_the_operator_says_and_an_unknown_one_may_do_least() -> None:
    also = {"editor": Role.MEMBER, "owner": Role.ADMIN}
    assert [read_role(word, also) for word in ("Editor ", "owner", "admin", "boss", "")] == [
        Role.MEMBER,
        Role.ADMIN,
        Role.ADMIN,
        Role.VIEWER,
        Role.VIEWER,
    ]


def test_the_documentation_shows_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "sign-in.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+:[a-z]+)`: .* \| (\w+) \| `(\w+)` \|$", page, re.MULTILINE)
    assert rows == [(str(action), str(need.role), str(need.scope)) for action, need in NEEDS.items()]
