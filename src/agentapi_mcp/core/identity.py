"""Who is asking, and the one function that says no."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType
from uuid import UUID

from agentapi_mcp.core.errors import PermissionDeniedError

UserId = NewType("UserId", UUID)
OrgId = NewType("OrgId", UUID)


class Role(StrEnum):
    """What a user is in an organisation."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Action(StrEnum):
    """What a use case asks leave for."""

    CHAT = "chat"
    READ = "read"
    EDIT = "edit"


_ALLOWED: dict[Role, frozenset[Action]] = {
    Role.OWNER: frozenset(Action),
    Role.ADMIN: frozenset(Action),
    Role.MEMBER: frozenset(Action),
    Role.VIEWER: frozenset({Action.READ}),
}


def read_role(written: str) -> Role:
    """Read a role as it is written in a database; one that is not known may do least."""
    try:
        return Role(written.strip().lower())
    except ValueError:
        return Role.VIEWER


@dataclass(frozen=True, slots=True)
class Principal:
    """A user in an organisation; scopes narrow the role, None means all that the role may do."""

    user_id: UserId
    org_id: OrgId
    role: Role = Role.OWNER
    scopes: frozenset[Action] | None = field(default=None)


def require(principal: Principal, action: Action) -> None:
    """Refuse what the principal may not do.

    Raises:
        PermissionDeniedError: neither the role nor the scopes allow the action.
    """
    if action not in _ALLOWED[principal.role] or (principal.scopes is not None and action not in principal.scopes):
        raise PermissionDeniedError(f"You may not {action} here; ask an administrator of your organisation.")
