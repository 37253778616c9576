"""Who is in an organisation, and who is expected there."""

from dataclasses import dataclass
from datetime import datetime

from agentapi_mcp.core.identity import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationMember:
    """A user of an organisation; `role` is as it is written there, a service is a program that a file declares."""

    user_id: UserId
    role: str
    email: str | None = None
    is_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Whoever first signs in with this verified e-mail, in lower case, becomes a member."""

    email: str
    role: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """Everybody of an organisation."""

    members: tuple[OrganizationMember, ...]
    invitations: tuple[Invitation, ...]
