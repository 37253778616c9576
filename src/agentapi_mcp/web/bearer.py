"""The bearer token of a request (RFC 6750), and in which way a header that should carry one does not."""

import hashlib
from typing import NamedTuple

from starlette.types import Scope

from agentapi_mcp.base.errors import NotAuthenticatedError, TokenFlaw
from agentapi_mcp.base.placeholders import unfilled
from agentapi_mcp.web.requests import head_of

_BEARER = "agentapi.bearer"  # scope key of the credentials of a request
# Of the IANA's registry and of common services; a word that is not here may be a secret, and is never quoted.
_OTHER_SCHEMES = frozenset(
    {
        *("basic", "digest", "negotiate", "ntlm", "dpop", "hoba", "mutual", "oauth", "gnap", "privatetoken", "vapid"),
        *("token", "apikey", "api-key", "key", "aws4-hmac-sha256", "scram-sha-1", "scram-sha-256"),
    }
)
_QUOTES = frozenset("\"'`")
_EMPTY_VALUES = frozenset({"undefined", "null", "none", "nil"})  # as programs write a variable that is not set


class Bearer(NamedTuple):
    """The token of a request, empty if there is none; `fault` says why a header holds none, else it is empty.

    `is_other` if the header is of another scheme, which is no fault in its form.
    """

    token: str
    digest: bytes
    fault: str = ""
    is_other: bool = False

    def error(self) -> NotAuthenticatedError:
        """Return the error for a header that holds no token."""
        return NotAuthenticatedError(self.fault, flaw=TokenFlaw.FORGED if self.is_other else TokenFlaw.MALFORMED)

    def hint(self) -> NotAuthenticatedError | None:
        """Return the error for a token that is not valid, if its form tells what went wrong; it quotes nothing."""
        reason = self._reason()
        return None if reason is None else NotAuthenticatedError(reason, flaw=TokenFlaw.MALFORMED)

    def _reason(self) -> str | None:
        placeholder = unfilled(self.token)
        if placeholder is not None:
            return f"What stands behind Bearer {placeholder}."
        if self.token.lower() in _EMPTY_VALUES:
            return f"Behind Bearer stands {self.token.lower()}: the variable that should hold the token is empty."
        if self.token.partition(" ")[0].lower() == "bearer":
            return "Authorization says Bearer twice: send it once, then the token."
        if self.token[:1] in _QUOTES:
            return "The token is in quotation marks: send it without them."
        if any(letter in ", \t" for letter in self.token):
            return "Behind Bearer stands more than one word: send one token, without spaces and commas."
        return None


def bearer_of(scope: Scope) -> Bearer:
    """Return the bearer token of a request, which is read once."""
    found: Bearer | None = scope.get(_BEARER)
    if found is None:
        values = [value.decode("latin-1") for value in head_of(scope).all(b"authorization")]
        found = scope[_BEARER] = _read(values)
    return found


def digest_of(token: str) -> bytes:
    """Return the digest by which tokens are compared."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _read(values: list[str]) -> Bearer:
    if len(values) != 1:
        return _without("Authorization came more than once: send it once." if values else "")
    kind, _, token = values[0].strip().partition(" ")
    token, scheme = token.strip(), kind.lower()
    if scheme == "bearer" and token:
        return Bearer(token, digest_of(token))
    if scheme == "bearer":
        return _without("Authorization says Bearer and no token: perhaps the variable that should hold it is empty.")
    if scheme in _OTHER_SCHEMES and token:
        return _without(f"Authorization is of the scheme {scheme}: send Bearer and a token.", is_other=True)
    if not scheme:
        return _without("Authorization is empty: send Bearer and a token.")
    placeholder = unfilled(values[0].strip())
    return _without(
        "Authorization must begin with the word Bearer and a space, then comes the token."
        if placeholder is None
        else f"What stands in Authorization {placeholder}."
    )


def _without(fault: str, *, is_other: bool = False) -> Bearer:
    return Bearer("", digest_of(""), fault, is_other)
