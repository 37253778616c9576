"""Sign-in at an issuer as an OAuth client: authorization code with PKCE (RFC 7636) only."""

import logging
from collections.abc import Mapping

from agentapi_mcp.auth.authorization import MetadataMemory, begin, client_credentials, mismatch
from agentapi_mcp.auth.fetching import FetchError, HttpFetch
from agentapi_mcp.base.errors import NotAuthenticatedError
from agentapi_mcp.base.json_values import as_list
from agentapi_mcp.core.access.models import Issuer, LoginAnswer, LoginBegun
from agentapi_mcp.core.identity.principals import TokenScope

_AWAY = "The sign-in cannot be reached now; try again in a moment."
_FAILED = "The sign-in did not succeed; begin again."
_log = logging.getLogger(__name__)


class Login:
    """One issuer's sign-in flow; the caller verifies the returned access token like any other."""

    def __init__(self, issuer: Issuer, resource: str, fetch: HttpFetch, metadata: MetadataMemory) -> None:
        self._issuer = issuer
        self._resource = resource
        self._fetch = fetch
        self._known = metadata

    async def begin(self, redirect_uri: str, *, anew: bool = False) -> LoginBegun:
        """Return the authorization URL, with state and PKCE verifier; `anew` asks everybody to sign in there again.

        Raises:
            NotAuthenticatedError: the issuer's metadata cannot be fetched.
        """
        metadata = await self._metadata()
        parameters = {
            "client_id": self._issuer.client_id or "",
            "redirect_uri": redirect_uri,
            # RFC 8707: the token is for this server only.
            "resource": self._resource,
        }
        scope = self._scope(metadata)
        parameters |= {"scope": scope} if scope else {}
        if anew:
            # OpenID Connect Core, section 3.1.2.1; other servers ignore it (RFC 6749, section 3.1).
            parameters["prompt"] = "login"
        return begin(self._issuer.issuer, str(metadata["authorization_endpoint"]), parameters)

    async def finish(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> str:
        """Exchange the authorization code for an access token.

        Raises:
            NotAuthenticatedError: the sign-in failed, or the response does not match the request.
        """
        metadata = await self._metadata()
        fault = mismatch(begun, answer, metadata)
        if fault is not None:
            raise self._refusal(fault)
        if answer.error is not None or not answer.code:
            raise self._refusal("the issuer says no")
        parameters = {
            "grant_type": "authorization_code",
            "code": answer.code,
            "redirect_uri": redirect_uri,
            "code_verifier": begun.verifier,
            "resource": self._resource,
        }
        try:
            response = await self._exchange(str(metadata["token_endpoint"]), parameters)
        except FetchError as exc:
            raise self._refusal(str(exc)) from exc
        token = response.get("access_token")
        if not isinstance(token, str) or not token:
            raise self._refusal("the issuer gives no access token")
        return token

    async def _metadata(self) -> Mapping[str, object]:
        try:
            return await self._known.find(self._issuer.issuer)
        except FetchError as exc:
            self._refusal(str(exc))
            raise NotAuthenticatedError(_AWAY) from exc

    def _scope(self, metadata: Mapping[str, object]) -> str:
        known = as_list(metadata.get("scopes_supported"))
        long = f"agentapi:{TokenScope.KEYS}"
        ours = long if long in known else str(TokenScope.KEYS)
        return " ".join([*(["openid"] if "openid" in known else []), *([ours] if self._issuer.needs_scopes else [])])

    async def _exchange(self, url: str, parameters: Mapping[str, str]) -> Mapping[str, object]:
        secret = self._issuer.client_secret
        plain = None if secret is None else secret.get_secret_value()
        fields, headers = client_credentials(self._issuer.client_id or "", plain)
        return await self._fetch.post(url, {**parameters, **fields}, headers)

    def _refusal(self, reason: str) -> NotAuthenticatedError:
        """Log the reason, and return the error for the visitor."""
        _log.info("login_refused", extra={"issuer": self._issuer.issuer, "reason": reason[:200]})
        return NotAuthenticatedError(_FAILED)
