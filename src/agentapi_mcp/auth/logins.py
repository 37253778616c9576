"""Sign-in at an issuer as an OAuth client: authorization code with PKCE (RFC 7636) only."""

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from agentapi_mcp.auth.fetching import FetchError, HttpFetch, check_address
from agentapi_mcp.auth.keys import metadata_urls
from agentapi_mcp.base.errors import NotAuthenticatedError
from agentapi_mcp.base.json_values import as_list
from agentapi_mcp.core.access.models import Issuer, LoginAnswer, LoginBegun
from agentapi_mcp.core.identity.principals import TokenScope

_AWAY = "The sign-in cannot be reached now; try again in a moment."
_FAILED = "The sign-in did not succeed; begin again."
_log = logging.getLogger(__name__)


class Login:
    """One issuer's sign-in flow; the caller verifies the returned access token like any other."""

    def __init__(self, issuer: Issuer, resource: str, fetch: HttpFetch) -> None:
        self._issuer = issuer
        self._resource = resource
        self._fetch = fetch

    async def begin(self, redirect_uri: str) -> LoginBegun:
        """Return the authorization URL, with state and PKCE verifier.

        Raises:
            NotAuthenticatedError: the issuer's metadata cannot be fetched.
        """
        metadata = await self._metadata()
        # 64 characters; RFC 7636, section 4.1, asks for 43 to 128.
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": self._issuer.client_id or "",
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            # RFC 8707: the token is for this server only.
            "resource": self._resource,
        }
        scope = self._scope(metadata)
        address = str(metadata["authorization_endpoint"])
        query = urlencode(parameters | ({"scope": scope} if scope else {}))
        url = f"{address}{'&' if '?' in address else '?'}{query}"
        return LoginBegun(issuer=self._issuer.issuer, url=url, state=state, verifier=verifier)

    async def finish(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> str:
        """Exchange the authorization code for an access token.

        Raises:
            NotAuthenticatedError: the sign-in failed, or the response does not match the request.
        """
        # RFC 6749, section 10.12: without `state` another site could complete a sign-in in the visitor's browser.
        if not hmac.compare_digest((answer.state or "").encode(), begun.state.encode()):
            raise self._refusal("its state is another")
        if answer.issuer is not None and answer.issuer != begun.issuer:  # mix-up attack, RFC 9207
            raise self._refusal("another issuer answers")
        metadata = await self._metadata()
        # RFC 9207, section 2.4: where it was promised, its absence is an attack, too.
        if answer.issuer is None and metadata.get("authorization_response_iss_parameter_supported") is True:
            raise self._refusal("it does not say which issuer answers, as the metadata promises")
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
        fault = ""
        for url in metadata_urls(self._issuer.issuer):
            try:
                document = await self._fetch(url)
                for name in ("authorization_endpoint", "token_endpoint"):
                    check_address(str(document.get(name)))
            except FetchError as exc:
                fault = str(exc)
                continue
            if document.get("issuer") == self._issuer.issuer:
                return document
            fault = f"{url} is the metadata of another issuer"
        self._refusal(fault)
        raise NotAuthenticatedError(_AWAY)

    def _scope(self, metadata: Mapping[str, object]) -> str:
        known = as_list(metadata.get("scopes_supported"))
        long = f"agentapi:{TokenScope.KEYS}"
        ours = long if long in known else str(TokenScope.KEYS)
        return " ".join([*(["openid"] if "openid" in known else []), *([ours] if self._issuer.needs_scopes else [])])

    async def _exchange(self, url: str, parameters: Mapping[str, str]) -> Mapping[str, object]:
        client_id, secret = self._issuer.client_id or "", self._issuer.client_secret
        if secret is None:
            return await self._fetch.post(url, {**parameters, "client_id": client_id}, {})
        # RFC 6749, section 2.3.1: both are form-encoded before they are joined.
        pair = f"{quote(client_id, safe='')}:{quote(secret.get_secret_value(), safe='')}"
        basic = base64.b64encode(pair.encode()).decode()
        return await self._fetch.post(url, parameters, {"authorization": f"Basic {basic}"})

    def _refusal(self, reason: str) -> NotAuthenticatedError:
        """Log the reason, and return the error for the visitor."""
        _log.info("login_refused", extra={"issuer": self._issuer.issuer, "reason": reason[:200]})
        return NotAuthenticatedError(_FAILED)
