"""Who an issuer says that somebody is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# What signs with a private key; no shared secret ever verifies a token here (RFC 8725, section 3.1).
ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


class Newcomers(StrEnum):
    """What becomes of somebody who signs in for the first time and is a member of nothing."""

    NONE = "none"
    DOMAIN = "domain"
    PERSONAL = "personal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An authorization server whose access tokens are taken, as the operator declares it.

    `audience` is what its tokens must be made for, by default this server's resource URL (RFC 8707). `jwks_uri` is
    looked up in its metadata where it is not given (RFC 8414, OpenID Connect Discovery 1.0).
    """

    issuer: str
    audience: str | None = None
    jwks_uri: str | None = None
    algorithms: tuple[str, ...] = ASYMMETRIC
    uses_workos_id: bool = False
    trusts_email: bool = False
    organization_claim: str | None = None
    newcomers: Newcomers = Newcomers.NONE
    domains: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClaims:
    """What a verified access token says; `email` only where the issuer says that it is verified.

    `is_service` holds for a program that has a token of its own (client credentials) and stands for no user.
    """

    issuer: Issuer
    subject: str
    scopes: frozenset[str]
    expires_at: datetime
    client_id: str | None = None
    organization: str | None = None
    email: str | None = None
    name: str | None = None
    is_service: bool = False
