"""Events of the audit log: who did what, from where, on what, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypedDict
from uuid import UUID

from agentapi_mcp.base.ids import OrgId, UserId


class AuditAction(StrEnum):
    """What is recorded."""

    SIGN_IN = "sign_in"
    IDENTITY_LINKED = "identity_linked"
    SIGN_IN_REFUSED = "sign_in_refused"
    PERMISSION_DENIED = "permission_denied"
    TOKEN_CREATED = "token_created"  # noqa: S105  # the name of an action
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  # the name of an action
    KEY_ADDED = "key_added"
    KEY_REMOVED = "key_removed"
    KEY_CHANGED = "key_changed"
    SECRETS_ROTATED = "secrets_rotated"
    ORGANIZATION_CHANGED = "organization_changed"
    ORGANIZATION_CREATED = "organization_created"
    MEMBER_INVITED = "member_invited"
    INVITATION_WITHDRAWN = "invitation_withdrawn"
    MEMBER_CHANGED = "member_changed"
    MEMBER_REMOVED = "member_removed"
    TURN_ACCEPTED = "turn_accepted"
    TURN_ENDED = "turn_ended"
    TURN_CANCELLED = "turn_cancelled"
    SESSION_RENAMED = "session_renamed"
    SESSION_DELETED = "session_deleted"
    AUDIT_READ = "audit_read"
    AUDIT_PRUNED = "audit_pruned"
    EVENTS_LOST = "events_lost"


# Success is told only once these are written; all others wait for nobody.
AWAITED = frozenset(
    {
        AuditAction.TOKEN_CREATED,
        AuditAction.TOKEN_REVOKED,
        AuditAction.KEY_ADDED,
        AuditAction.KEY_REMOVED,
        AuditAction.KEY_CHANGED,
        AuditAction.SECRETS_ROTATED,
        AuditAction.ORGANIZATION_CHANGED,
        AuditAction.ORGANIZATION_CREATED,
        AuditAction.MEMBER_INVITED,
        AuditAction.INVITATION_WITHDRAWN,
        AuditAction.MEMBER_CHANGED,
        AuditAction.MEMBER_REMOVED,
    }
)
# What somebody outside can make happen at will: counted within a minute instead of written each time.
COUNTED = frozenset({AuditAction.SIGN_IN_REFUSED, AuditAction.PERMISSION_DENIED})


class AuditOutcome(StrEnum):
    """How it ended."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


class AuditTarget(NamedTuple):
    """On what it was done: a kind such as `turn` or `token`, and its id or name; never a text that somebody wrote."""

    kind: str
    id: str


class AuditDetails(TypedDict, total=False):
    """All that an event may say beside; what has another name, or is None, is left out.

    `reason` and `status` are codes.
    """

    agent: str | None
    model: str | None
    provider: str | None
    status: str | None
    reason: str | None
    needs: str | None
    role: str | None
    scopes: str | None
    settings: str | None
    expires_at: str | None
    cost_usd: float | None
    input_tokens: int | None
    output_tokens: int | None
    count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """What happened; `via` is how who did it was let in, `client` and `address` from where.

    `action` is an AuditAction, or what a newer program calls one of its own.
    """

    id: UUID
    at: datetime
    action: str
    outcome: AuditOutcome = AuditOutcome.OK
    org_id: OrgId | None = None
    user_id: UserId | None = None
    via: str | None = None
    client: str | None = None
    address: str | None = None
    request_id: str | None = None
    target: AuditTarget | None = None
    details: Mapping[str, str | float] = field(default_factory=dict[str, str | float])


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which events are asked for; None is all."""

    user_id: UserId | None = None
    action: AuditAction | None = None
    outcome: AuditOutcome | None = None
    since: datetime | None = None
