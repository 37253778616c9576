"""Models of the audit log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypedDict
from uuid import UUID

from agentapi_mcp.base.ids import OrgId, UserId


class AuditAction(StrEnum):
    """The kind of an audit event."""

    SIGN_IN = "sign_in"
    IDENTITY_LINKED = "identity_linked"
    SIGN_IN_REFUSED = "sign_in_refused"
    PERMISSION_DENIED = "permission_denied"
    TOKEN_CREATED = "token_created"  # noqa: S105  # the name of an action
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  # the name of an action
    KEY_ADDED = "key_added"
    KEY_REMOVED = "key_removed"
    KEY_CHANGED = "key_changed"
    ACCOUNT_CONNECTED = "account_connected"
    ACCOUNT_DISCONNECTED = "account_disconnected"
    ACCOUNT_REVOKED = "account_revoked"
    SECRETS_ROTATED = "secrets_rotated"
    ORGANIZATION_CHANGED = "organization_changed"
    ORGANIZATION_CREATED = "organization_created"
    AGENT_REMOVED = "agent_removed"
    PROVIDER_ADDED = "provider_added"
    TERM_ADDED = "term_added"
    MEMBER_INVITED = "member_invited"
    INVITATION_WITHDRAWN = "invitation_withdrawn"
    MEMBER_CHANGED = "member_changed"
    MEMBER_REMOVED = "member_removed"
    TURN_ACCEPTED = "turn_accepted"
    TURN_ENDED = "turn_ended"
    TURN_CANCELLED = "turn_cancelled"
    TURN_STOPPED = "turn_stopped"
    SESSION_RENAMED = "session_renamed"
    SESSION_DELETED = "session_deleted"
    SESSION_TAGGED = "session_tagged"
    SESSION_ARCHIVED = "session_archived"
    RATED = "rated"
    INTERACTION_RECORDED = "interaction_recorded"
    AUDIT_READ = "audit_read"
    AUDIT_PRUNED = "audit_pruned"
    EVENTS_LOST = "events_lost"


# Success of these is reported only after the event is stored; all others are written in the background.
AWAITED = frozenset(
    {
        AuditAction.TOKEN_CREATED,
        AuditAction.TOKEN_REVOKED,
        AuditAction.KEY_ADDED,
        AuditAction.KEY_REMOVED,
        AuditAction.KEY_CHANGED,
        AuditAction.ACCOUNT_CONNECTED,
        AuditAction.ACCOUNT_DISCONNECTED,
        AuditAction.SECRETS_ROTATED,
        AuditAction.ORGANIZATION_CHANGED,
        AuditAction.ORGANIZATION_CREATED,
        AuditAction.PROVIDER_ADDED,
        AuditAction.TERM_ADDED,
        AuditAction.MEMBER_INVITED,
        AuditAction.INVITATION_WITHDRAWN,
        AuditAction.MEMBER_CHANGED,
        AuditAction.MEMBER_REMOVED,
        AuditAction.TURN_CANCELLED,
        AuditAction.SESSION_RENAMED,
        AuditAction.SESSION_DELETED,
        AuditAction.SESSION_TAGGED,
        AuditAction.SESSION_ARCHIVED,
        AuditAction.RATED,
        AuditAction.INTERACTION_RECORDED,
        AuditAction.AUDIT_READ,
    }
)
# Anyone can trigger these without limit: they are coalesced per minute.
COUNTED = frozenset({AuditAction.SIGN_IN_REFUSED, AuditAction.PERMISSION_DENIED})


class AuditOutcome(StrEnum):
    """The outcome of an action."""

    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


class AuditTarget(NamedTuple):
    """The target of an action: a kind such as `turn` or `token`, and its id or name; never text of users."""

    kind: str
    id: str


class EventOwner(NamedTuple):
    """Whose an event is: an operator may act on an organisation of others, and a refused member has no principal."""

    org_id: OrgId
    user_id: UserId


class AuditDetails(TypedDict, total=False):
    """The allowed details of an event; other names and None are dropped.

    `reason` and `status` are codes, not text.
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
    """An audit event; `via` is the credential of the user, `client` and `address` the origin of the request.

    `action` is an AuditAction, or an unknown one that a newer version wrote.
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
    """Filter for audit events; None matches all."""

    user_id: UserId | None = None
    action: AuditAction | None = None
    outcome: AuditOutcome | None = None
    since: datetime | None = None
