"""Requests for a key, and the visits of those who come to enter it."""

from dataclasses import dataclass, field
from datetime import datetime

from agentapi_mcp.core.identity import OrgId, UserId
from agentapi_mcp.core.records.logins import LoginBegun


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """Who may enter a key for which provider, when they have signed in at this issuer; `token_sha256` names it."""

    token_sha256: bytes = field(repr=False)
    user_id: UserId
    org_id: OrgId
    issuer: str
    provider: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """How far a visitor of the page is: sent to sign in with `login`, or signed in with a token for the form."""

    token_sha256: bytes = field(repr=False)
    login: LoginBegun | None = None
    form_token: str | None = field(default=None, repr=False)
