"""Who is asking, and the one function that says no."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from agentapi_mcp.base.errors import PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.base.json_values import as_object

VIA_PERSONAL = "token:"  # how `via` begins where a personal token let somebody in; its id follows


class Role(StrEnum):
    """What a user is in an organisation; each may do what those before it may."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    OWNER = "owner"


class TokenScope(StrEnum):
    """What a token can be limited to (RFC 6749, section 3.3)."""

    READ = "read"
    CHAT = "chat"
    EDIT = "edit"
    KEYS = "keys"
    ADMIN = "admin"


class Action(StrEnum):
    """What a use case asks leave for."""

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
    """What an action needs: at least this role, and, where a token is limited, this scope."""

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
    """What a member may do beyond their role, and what they may not in spite of it; what is denied stays denied."""

    allowed: frozenset[Action] = _NO_ACTIONS
    denied: frozenset[Action] = _NO_ACTIONS


@dataclass(frozen=True, slots=True)
class Principal:
    """A user in an organisation; scopes narrow what they may do, None leaves all of it.

    `via` names what let them in, and `expires_at` is when that ends; neither makes them somebody else.
    """

    user_id: UserId
    org_id: OrgId
    role: Role = Role.OWNER
    scopes: frozenset[TokenScope] | None = None
    exceptions: Exceptions = Exceptions()
    via: str = field(default="local", compare=False)
    expires_at: datetime | None = field(default=None, compare=False)


def require(principal: Principal, action: Action) -> None:
    """Refuse what the principal may not do.

    Raises:
        PermissionDeniedError: the role does not allow it, or the scopes do not; then `scope` says which is needed.
    """
    refused = refusal(principal, action)
    if refused is not None:
        raise refused


def refusal(principal: Principal, action: Action) -> PermissionDeniedError | None:
    """Return why the principal may not do something, None where they may."""
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


def read_role(written: str, also: Mapping[str, Role]) -> Role:
    """Read a role as it is written in a database, where `also` says what other words mean; else it may do least."""
    word = written.strip().lower()
    return also.get(word) or (Role(word) if word in set(Role) else Role.VIEWER)


def read_exceptions(permissions: object) -> Exceptions:
    """Read `permissions` of a membership: `{"agentapi": {"sessions:edit": false}}`; another form says nothing."""
    named = as_object(as_object(permissions).get("agentapi"))
    return Exceptions(
        allowed=frozenset(action for action in Action if named.get(action) is True),
        denied=frozenset(action for action in Action if action in named and named[action] is not True),
    )
