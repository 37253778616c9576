"""Flows by which users connect accounts: OAuth 2 by a server's metadata, and OpenRouter's."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlencode

import httpx2
from typing_extensions import override

from agentapi_mcp.auth.authorization import begin, challenge_of, client_credentials, find_metadata, mismatch
from agentapi_mcp.auth.fetching import FetchError, HttpFetch, RefusedError
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.json_values import as_list
from agentapi_mcp.core.access.models import LoginAnswer, LoginBegun
from agentapi_mcp.core.accounts.models import AccountKind, AccountProvider, Tokens
from agentapi_mcp.core.accounts.ports import AccountFlow, FlowRefusedError, FlowUnavailableError

_BEARER = "bearer"
# RFC 6749, section 5.2. Any other error, a status of 429 or 500 and silence say nothing about the grant.
_VOID = "invalid_grant"
_LONGEST_LIFE = timedelta(days=366)
_WITHIN = timedelta(seconds=10)
# RFC 6749, section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_MOST_SCOPES = 100
_DENIED = "access_denied"
_OFFLINE = "offline_access"


class OAuthFlow(AccountFlow):
    """OAuth 2 at a server that publishes its metadata; Google is one, and asks for two more parameters."""

    def __init__(self, fetch: HttpFetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock

    @override
    async def begin(self, provider: AccountProvider, redirect_uri: str) -> LoginBegun:
        metadata = await self._metadata(provider)
        methods = metadata.get("code_challenge_methods_supported")
        if methods is not None and "S256" not in as_list(methods):
            raise FlowRefusedError("it does not support PKCE with S256")
        parameters = {"client_id": provider.client_id or "", "redirect_uri": redirect_uri}
        parameters |= {"scope": " ".join(provider.scopes)} if provider.scopes else {}
        if _OFFLINE in provider.scopes:
            # OpenID Connect Core, section 11: a server ignores this scope, without which it issues no refresh token,
            # unless consent is asked for.
            parameters |= {"prompt": "consent"}
        if provider.kind is AccountKind.GOOGLE:
            # Google issues a refresh token for offline access only, and for each consent anew only if it is asked for.
            parameters |= {"access_type": "offline", "prompt": "consent"}
        return begin(provider.issuer, str(metadata["authorization_endpoint"]), parameters)

    @override
    async def finish(
        self, provider: AccountProvider, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str
    ) -> Tokens:
        metadata = await self._metadata(provider)
        fault = mismatch(begun, answer, metadata)
        if fault is not None:
            raise FlowRefusedError("its answer does not belong to what you began")
        code = _code(answer)
        parameters = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": begun.verifier,
        }
        tokens = self._tokens(await self._ask(provider, str(metadata["token_endpoint"]), parameters), provider.scopes)
        lacking = [scope for scope in provider.scopes if scope not in tokens.scopes]
        if lacking:
            # Its user may have unticked it; a token without it would fail in the middle of a conversation.
            with suppress(FlowUnavailableError):
                await self.revoke(provider, tokens)
            raise FlowRefusedError(f"it did not grant {' '.join(lacking)}, which is needed")
        return tokens

    @override
    async def renew(self, provider: AccountProvider, tokens: Tokens) -> Tokens:
        metadata = await self._metadata(provider)
        refresh = "" if tokens.refresh is None else tokens.refresh.get_secret_value()
        parameters = {"grant_type": "refresh_token", "refresh_token": refresh}
        document = await self._ask(provider, str(metadata["token_endpoint"]), parameters)
        return self._tokens(document, tokens.scopes, refresh)

    @override
    async def revoke(self, provider: AccountProvider, tokens: Tokens) -> bool:
        metadata = await self._metadata(provider)
        endpoint = metadata.get("revocation_endpoint")
        if not isinstance(endpoint, str):
            return False
        # RFC 7009, section 2.1: with the refresh token the server also ends the access tokens of its grant.
        token, hint = (tokens.access, "access_token") if tokens.refresh is None else (tokens.refresh, "refresh_token")
        fields, headers = _client(provider)
        form = {"token": token.get_secret_value(), "token_type_hint": hint, **fields}
        try:
            await self._fetch.notify(endpoint, form, headers)
        except FetchError as exc:
            raise FlowUnavailableError(str(exc)) from exc
        return True

    async def _metadata(self, provider: AccountProvider) -> Mapping[str, object]:
        try:
            return await find_metadata(self._fetch, provider.issuer)
        except FetchError as exc:
            raise FlowUnavailableError(str(exc)) from exc

    async def _ask(self, provider: AccountProvider, url: str, parameters: Mapping[str, str]) -> Mapping[str, object]:
        fields, headers = _client(provider)
        try:
            return await self._fetch.post(url, {**parameters, **fields}, headers)
        except RefusedError as exc:
            if exc.error == _VOID:
                raise FlowRefusedError("its grant is not valid any more") from exc
            raise FlowUnavailableError(str(exc)) from exc
        except FetchError as exc:
            raise FlowUnavailableError(str(exc)) from exc

    def _tokens(self, document: Mapping[str, object], asked: tuple[str, ...], refresh: str | None = None) -> Tokens:
        access, issued = document.get("access_token"), document.get("refresh_token")
        if not _is_header_text(access):
            raise FlowUnavailableError("the token endpoint gives no access token")
        kind = document.get("token_type", _BEARER)
        if not isinstance(kind, str) or kind.lower() != _BEARER:
            # RFC 6749, section 7.1: a token of a type that a client does not know must not be used.
            raise FlowUnavailableError("the token endpoint gives no bearer token, the only type that can be sent")
        if not isinstance(issued, str) or not issued:
            issued = refresh
        elif not (issued.isascii() and issued.isprintable()):  # RFC 6749, appendix A.17: it could not be sent back
            raise FlowUnavailableError("the token endpoint gives a refresh token that is none")
        scope = document.get("scope")
        return Tokens.issued(
            str(access),
            issued,
            _expiry(document.get("expires_in"), self._clock.now()),
            # RFC 6749, section 5.1: it may be left out where it is what was asked for.
            _granted(scope, asked) if isinstance(scope, str) else asked,
        )


class OpenRouterFlow(AccountFlow):
    """OpenRouter's flow: PKCE without a client, for an API key that does not expire by itself.

    It knows no `state`. PKCE takes its place (RFC 9700, section 4.7.1): a code that another browser began cannot be
    exchanged with this verifier.
    """

    def __init__(self, fetch: HttpFetch) -> None:
        self._fetch = fetch

    @override
    async def begin(self, provider: AccountProvider, redirect_uri: str) -> LoginBegun:
        begun = begin(provider.issuer, "", {})
        asked = {
            "callback_url": redirect_uri,
            "code_challenge": challenge_of(begun.verifier),
            "code_challenge_method": "S256",
        }
        url = f"{provider.issuer.rstrip('/')}/auth?{urlencode(asked)}"
        return LoginBegun(issuer=provider.issuer, url=url, state="", verifier=begun.verifier)

    @override
    async def finish(
        self, provider: AccountProvider, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str
    ) -> Tokens:
        asked = {"code": _code(answer), "code_verifier": begun.verifier, "code_challenge_method": "S256"}
        try:
            url = f"{provider.issuer.rstrip('/')}/api/v1/auth/keys"
            key = (await self._fetch.post_json(url, asked)).get("key")
        except RefusedError as exc:
            if exc.status in {400, 403}:
                raise FlowRefusedError("its code is not valid") from exc
            raise FlowUnavailableError(str(exc)) from exc
        except FetchError as exc:
            raise FlowUnavailableError(str(exc)) from exc
        if not _is_header_text(key):
            raise FlowUnavailableError("it gives no key")
        return Tokens.issued(str(key))

    @override
    async def renew(self, provider: AccountProvider, tokens: Tokens) -> Tokens:
        raise FlowRefusedError("its keys are not renewed")

    @override
    async def revoke(self, provider: AccountProvider, tokens: Tokens) -> bool:
        return False  # there is no endpoint for it: users delete the key among their keys at OpenRouter


class AccountFlows:
    """The flows of all kinds of providers, on one HTTP client."""

    def __init__(self, clock: Clock, *, within: timedelta = _WITHIN) -> None:
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # no cookies: the client is shared by all users
        self._client = httpx2.AsyncClient(cookies=cookies)
        fetch = HttpFetch(self._client, within=within)
        self._oauth, self._openrouter = OAuthFlow(fetch, clock), OpenRouterFlow(fetch)

    def __call__(self, provider: AccountProvider) -> AccountFlow:
        """Return the flow of a provider."""
        return self._openrouter if provider.kind is AccountKind.OPENROUTER else self._oauth

    async def aclose(self) -> None:
        """Close the connections to the providers."""
        await self._client.aclose()


def _client(provider: AccountProvider) -> tuple[dict[str, str], dict[str, str]]:
    secret = provider.client_secret
    return client_credentials(provider.client_id or "", None if secret is None else secret.get_secret_value())


def _code(answer: LoginAnswer) -> str:
    if answer.error == _DENIED:
        raise FlowRefusedError("access was denied there")
    if answer.error is not None or not answer.code:
        raise FlowRefusedError("it refused")
    return answer.code


def _is_header_text(value: object) -> bool:
    """Return whether a token can be sent as a header."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and bool(value) and " " not in value


def _granted(scope: str, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes of an answer, those that were asked for first; they are shown, and stored in a column."""
    names = [name for name in dict.fromkeys(scope.split()) if _SCOPE.fullmatch(name)]
    return tuple(sorted(names, key=lambda name: name not in asked)[:_MOST_SCOPES])


def _expiry(seconds: object, now: datetime) -> datetime | None:
    if isinstance(seconds, str) and seconds.isdecimal():  # some servers send a string
        seconds = int(seconds[:12])
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return None
    # Whatever is not above zero, as NaN, has expired: without an end the token would never be renewed.
    return now + timedelta(seconds=min(seconds, _LONGEST_LIFE.total_seconds()) if seconds > 0 else 0)
