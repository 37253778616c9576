"""Verification of JWT access tokens (RFC 9068, RFC 8725): signature, issuer, audience and times."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError
from jwt.types import Options

from agentapi_mcp.auth.fetching import Fetch
from agentapi_mcp.auth.keys import KeySet, NoKeyError
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import NotAuthenticatedError, TokenFlaw
from agentapi_mcp.base.json_values import as_list
from agentapi_mcp.base.text import one_line
from agentapi_mcp.base.validation import PLAIN_EMAIL
from agentapi_mcp.core.access.models import Issuer, TokenClaims

_LONGEST = 16 * 1024
_LONGEST_NAME = 255
_LEEWAY = timedelta(seconds=30)  # tolerated clock skew
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_LONGEST_SHOWN, _MOST_SHOWN = 200, 3  # of the audiences of a token
_NOT_VALID = "This token is not valid here."
_log = logging.getLogger(__name__)


class _ClaimError(ValueError):
    """A claim of a signed token that cannot be used; the message is for the operator's log."""


# What PyJWT and `_read` raise only once the signature has been verified; OverflowError is about times.
_SIGNED = (
    *(jwt.ImmatureSignatureError, jwt.InvalidAudienceError, jwt.InvalidIssuedAtError, jwt.InvalidIssuerError),
    *(InvalidJTIError, InvalidSubjectError, jwt.MissingRequiredClaimError, _ClaimError, OverflowError),
)


class TokenVerifier:
    """Verifies the tokens of several issuers; the reason of a refusal goes to the log, never to the client.

    Keys are fetched in the group, which must outlive the verifier.
    """

    def __init__(self, resource: str, fetch: Fetch, clock: Clock, group: asyncio.TaskGroup) -> None:
        self._resource = resource
        self._fetch = fetch
        self._clock = clock
        self._group = group
        self._issuers: dict[str, tuple[Issuer, KeySet]] = {}

    async def set_issuers(self, issuers: Iterable[Issuer]) -> None:
        """Replace the trusted issuers; keys are retained for an issuer whose `jwks_uri` is unchanged."""
        previous, self._issuers = self._issuers, {}
        for issuer in issuers:
            known = previous.get(issuer.issuer)
            if known is not None and known[0].jwks_uri == issuer.jwks_uri:
                keys = previous.pop(issuer.issuer)[1]
            else:
                keys = KeySet(issuer, self._fetch, self._clock, self._group)
            self._issuers[issuer.issuer] = (issuer, keys)
        for _, keys in previous.values():
            await keys.aclose()

    async def verify(self, token: str) -> TokenClaims:
        """Verify a token and return its claims.

        Raises:
            NotAuthenticatedError: it is invalid, expired, for another server, or of an untrusted issuer.
            IssuerUnavailableError: the issuer's keys cannot be fetched.
        """
        try:
            return await self._verify(token)
        except (jwt.PyJWTError, NoKeyError, ValueError, OverflowError) as exc:
            _log.info("token_refused", extra={"reason": f"{type(exc).__name__}: {exc}"[:200]})
            if isinstance(exc, jwt.ExpiredSignatureError):
                raise NotAuthenticatedError("This token has expired.", flaw=TokenFlaw.ENDED) from exc
            flaw = TokenFlaw.UNSUITABLE if isinstance(exc, _SIGNED) else TokenFlaw.FORGED
            raise NotAuthenticatedError(_NOT_VALID, flaw=flaw) from exc

    async def aclose(self) -> None:
        """Remove all issuers, and stop refreshing their keys."""
        await self.set_issuers(())

    async def _verify(self, token: str) -> TokenClaims:
        if len(token) > _LONGEST:
            raise ValueError("it is too long")
        header = jwt.get_unverified_header(token)
        kind, algorithm, kid = header.get("typ", "JWT"), header.get("alg"), header.get("kid")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise ValueError("it is of another type")
        # RFC 7515, section 4.1.11: critical extensions that are not understood must be rejected.
        if "crit" in header:
            raise ValueError("it has critical extensions")
        if not (kid is None or isinstance(kid, str)) or not isinstance(algorithm, str):
            raise ValueError("its header is wrong")
        # Only to select the issuer: nothing unverified is used beyond that.
        unverified = jwt.decode(token, options={"verify_signature": False})
        issuer, keys = self._issuers.get(_text(unverified.get("iss")) or "", (None, None))
        if issuer is None or keys is None:
            raise ValueError("its issuer is unknown")
        # RFC 8725, section 3.1: the algorithm is the configuration's choice, not the token's.
        if algorithm not in issuer.algorithms:
            raise ValueError("its algorithm is not allowed")
        key, audience = await keys.find(kid, algorithm), issuer.audience or self._resource
        # Times are checked in `_read`, by the injected clock.
        options: Options = {
            "require": ["exp", "iss", "aud", "sub"],
            "verify_exp": False,
            "verify_nbf": False,
            "verify_iat": False,
        }
        try:
            claims = jwt.decode(
                token, key=key, algorithms=[algorithm], issuer=issuer.issuer, audience=audience, options=options
            )
        except jwt.InvalidAudienceError as exc:  # its signature is valid
            raise self._for_another(audience, unverified.get("aud")) from exc
        return self._read(issuer, claims)

    def _for_another(self, audience: str, said: object) -> NotAuthenticatedError:
        """Return the error for a token with another audience, which the log shows beside that of this server.

        They are compared to the letter (RFC 9068, section 4), so one that names this server in another way is told.
        """
        named = [said] if isinstance(said, str) else [each for each in as_list(said) if isinstance(each, str)]
        nearly = any(each.rstrip("/").lower() == audience.rstrip("/").lower() for each in named)
        why = "; they differ in the case of letters or in a slash at the end" if nearly else ""
        shown = ", ".join(one_line(each, _LONGEST_SHOWN) for each in named[:_MOST_SHOWN]) or "none"
        _log.info("token_refused", extra={"reason": f"its audience is {shown}, that of this server {audience}{why}"})
        # The resource is public. Another audience is between the issuer and the operator.
        own = f" (`aud`) must be {audience} to the letter" if audience == self._resource else " is another one"
        return NotAuthenticatedError(
            f"This token is not valid here: it is for another server. Its audience{own}.", flaw=TokenFlaw.UNSUITABLE
        )

    def _read(self, issuer: Issuer, claims: Mapping[str, object]) -> TokenClaims:
        expires_at = _timestamp(claims["exp"])
        now = self._clock.now()
        if now >= expires_at + _LEEWAY:
            raise jwt.ExpiredSignatureError("it has expired")
        for name in ("nbf", "iat"):
            if name in claims and now + _LEEWAY < _timestamp(claims[name]):
                raise jwt.ImmatureSignatureError(f"its {name} is in the future")
        subject = _text(claims["sub"])
        if not subject:
            raise _ClaimError("it has no subject")
        # `client_id` (RFC 9068), `azp` (OpenID Connect), `cid` (Okta).
        client_id = next(filter(None, (_text(claims.get(name)) for name in ("client_id", "azp", "cid"))), None)
        # An unverified address is whatever the user typed in.
        email = _text(claims.get("email")) if claims.get("email_verified") is True else None
        claim = claims.get(issuer.organization_claim) if issuer.organization_claim else None
        organization = _text(claim)
        if claim is not None and organization is None:  # it would bind to none
            raise _ClaimError("its organisation is no text")
        return TokenClaims(
            issuer=issuer,
            subject=subject,
            scopes=_scopes(claims),
            expires_at=expires_at,
            client_id=client_id,
            organization=organization,
            email=_email(email),
            name=_text(claims.get("name")),
            # Marks of the client credentials grant: RFC 9068 (section 2.2), Auth0's `gty`, Entra ID's `idtyp`.
            is_service=subject == client_id
            or claims.get("gty") == "client-credentials"
            or claims.get("idtyp") == "app"
            or any(service.subject == subject for service in issuer.services),
        )


def _timestamp(value: object) -> datetime:
    # In Python, bool is an int; a NumericDate (RFC 7519, section 2) is not.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _ClaimError("a time in it is none")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OSError, ValueError) as exc:
        raise _ClaimError("a time in it is in no year that can be written") from exc


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value or len(value) > _LONGEST_NAME or not value.isprintable():
        return None
    return value


def _email(value: str | None) -> str | None:
    """Return the e-mail in lower case; None unless it is plain ASCII, since look-alike letters allow spoofing."""
    if value is None or not PLAIN_EMAIL.fullmatch(value):
        return None
    return value.lower()


def _scopes(claims: Mapping[str, object]) -> frozenset[str]:
    """Read the scopes: a space-separated string (RFC 9068), or a list, as some issuers send."""
    value = claims.get("scope", claims.get("scp", ""))
    if isinstance(value, str):
        return frozenset(value.split())
    return frozenset(item for item in as_list(value) if isinstance(item, str))
