"""Signing in at an issuer for a page of ours (OAuth 2.1, authorization code with PKCE)."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginBegun:
    """Where the visitor is sent, and what only we know of it until they come back."""

    issuer: str
    url: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAnswer:
    """What the issuer sends the visitor back with; None is unsaid."""

    state: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    issuer: str | None = None
    error: str | None = None
