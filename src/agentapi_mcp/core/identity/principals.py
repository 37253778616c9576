"""Principals, and the check of their permissions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from agentapi_mcp.base.errors import PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.base.json_values import as_object

VIA_PERSONAL = "token:"  # prefix of `via` for personal tokens; the id follows


class Role(StrEnum):
    """Role of a user in an organisation; each includes the rights of those before it."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"


class TokenScope(StrEnum):
    """Scopes of access tokens (RFC 6749, section 3.3)."""

    READ = "read"
    CHAT = "chat"
    EDIT = "edit"
    KEYS = "keys"
    ADMIN = "admin"


class Action(StrEnum):
    """An action that needs a permission."""

    READ_CATALOGUE = "catalogue:read"
    READ_SESSIONS = "sessions:read"
    CHAT = "sessions:chat"
    EDIT_SESSIONS = "sessions:edit"
    EDIT_PREFERENCES = "preferences:edit"
    MANAGE_KEYS = "keys:manage"
    CREATE_TOKENS = "tokens:create"
    MANAGE_TOKENS = "tokens:manage"
    READ_ORGANIZATION = "organization:read"
    EDIT_ORGANIZATION = "organization:edit"
    MANAGE_MEMBERS = "members:manage"
    MANAGE_OWNERS = "owners:manage"
    READ_AUDIT = "audit:read"


@dataclass(frozen=True, slots=True)
class Need:
    """Requirement of an action: the minimum role, and the scope if the token has scopes."""

    role: Role
    scope: TokenScope


NEEDS: Mapping[Action, Need] = {
    Action.READ_CATALOGUE: Need(Role.VIEWER, TokenScope.READ),
    Action.READ_SESSIONS: Need(Role.VIEWER, TokenScope.READ),
    Action.CHAT: Need(Role.MEMBER, TokenScope.CHAT),
    Action.EDIT_SESSIONS: Need(Role.MEMBER, TokenScope.EDIT),
    Action.EDIT_PREFERENCES: Need(Role.MEMBER, TokenScope.EDIT),
    Action.MANAGE_KEYS: Need(Role.MEMBER, TokenScope.KEYS),
    Action.CREATE_TOKENS: Need(Role.MEMBER, TokenScope.KEYS),
    Action.MANAGE_TOKENS: Need(Role.VIEWER, TokenScope.KEYS),
    Action.READ_ORGANIZATION: Need(Role.ADMIN, TokenScope.ADMIN),
    Action.EDIT_ORGANIZATION: Need(Role.ADMIN, TokenScope.ADMIN),
    Action.MANAGE_MEMBERS: Need(Role.ADMIN, TokenScope.ADMIN),
    Action.MANAGE_OWNERS: Need(Role.OWNER, TokenScope.ADMIN),
    Action.READ_AUDIT: Need(Role.ADMIN, TokenScope.ADMIN),
}

_RANK = {role: rank for rank, role in enumerate(Role)}

_NO_ACTIONS: frozenset[Action] = frozenset()


@dataclass(frozen=True, slots=True)
class Exceptions:
    """Actions allowed or denied to a member regardless of their role; denial takes precedence."""

    allowed: frozenset[Action] = _NO_ACTIONS
    denied: frozenset[Action] = _NO_ACTIONS


@dataclass(frozen=True, slots=True)
class Principal:
    """A user in an organisation; scopes restrict their rights, None means no restriction.

    `via` names the credential, which ends at `expires_at`; `toolsets` are those that it chooses, of which none gives a
    right; None chooses nothing. Nothing of that is part of the identity.
    """

    user_id: UserId
    org_id: OrgId
    role: Role = Role.OWNER
    scopes: frozenset[TokenScope] | None = None
    exceptions: Exceptions = Exceptions()
    via: str = field(default="local", compare=False)
    expires_at: datetime | None = field(default=None, compare=False)
    toolsets: frozenset[str] | None = field(default=None, compare=False)


def require(principal: Principal, action: Action) -> None:
    """Require a permission.

    Raises:
        PermissionDeniedError: the role or the scopes do not allow it; `scope` is the missing scope in the second case.
    """
    refused = refusal(principal, action)
    if refused is not None:
        raise refused


def refusal(principal: Principal, action: Action) -> PermissionDeniedError | None:
    """Return the error for a denied action, None if it is allowed."""
    # The policies of the database check the same rules again (docs/design/database.md, rule 2).
    need, exceptions = NEEDS[action], principal.exceptions
    by_role = _RANK[principal.role] >= _RANK[need.role] or action in exceptions.allowed
    if not by_role or action in exceptions.denied:
        return PermissionDeniedError(
            f"You may not do this here ({action}); ask an administrator of your organisation.", action=action
        )
    if principal.scopes is not None and need.scope not in principal.scopes:
        mended = "make one that has it" if principal.via.startswith(VIA_PERSONAL) else "sign in again and allow it"
        return PermissionDeniedError(
            f"Your token lacks the scope '{need.scope}'; {mended}.",
            scope=str(need.scope),
            action=action,
        )
    return None


def read_role(written: str, aliases: Mapping[str, Role]) -> Role:
    """Parse a stored role; `aliases` maps other names, and an unknown role becomes VIEWER, the least privilege."""
    word = written.strip().lower()
    return aliases.get(word) or (Role(word) if word in set(Role) else Role.VIEWER)


def read_exceptions(permissions: object) -> Exceptions:
    """Parse `permissions` of a membership: `{"agentapi": {"sessions:edit": false}}`; other forms are ignored."""
    named = as_object(as_object(permissions).get("agentapi"))
    return Exceptions(
        allowed=frozenset(action for action in Action if named.get(action) is True),
        denied=frozenset(action for action in Action if action in named and named[action] is not True),
    )
