"""What is known of a personal token; the token itself is nowhere."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from agentapi_mcp.core.identity import OrgId, TokenScope, UserId
from agentapi_mcp.core.records.identities import Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalToken:
    """A token that somebody made for a program of theirs; its last four characters tell it from others."""

    id: UUID
    user_id: UserId
    org_id: OrgId
    name: str
    last_four: str
    scopes: frozenset[TokenScope]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A token, and what its owner is now in the organisation that it is for; None when they have left."""

    token: PersonalToken
    membership: Membership | None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token with its secret, which is told this once."""

    secret: str = field(repr=False)
    token: PersonalToken
