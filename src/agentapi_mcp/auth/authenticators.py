"""Authentication by access tokens of the configured issuers, and sign-in at them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2
from typing_extensions import override

from agentapi_mcp.auth.authorization import MetadataMemory
from agentapi_mcp.auth.fetching import HttpFetch
from agentapi_mcp.auth.logins import Login
from agentapi_mcp.auth.tokens import TokenVerifier
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import NotAuthenticatedError
from agentapi_mcp.base.ids import UserId
from agentapi_mcp.base.store_waits import store_answers_within
from agentapi_mcp.core.access.models import Issuer, LoginAnswer, LoginBegun, LoginDone, SignInRules
from agentapi_mcp.core.access.ports import Authenticator
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.identity.principals import Principal, Role


class OAuthAuthenticator(Authenticator):
    """Authenticates by access tokens; opened with `open_authenticator`."""

    def __init__(
        self, fetch: HttpFetch, metadata: MetadataMemory, resource: str, verifier: TokenVerifier, sign_ins: SignIns
    ) -> None:
        self._fetch = fetch
        self._metadata = metadata
        self._resource = resource
        self._sign_ins = sign_ins
        self._rules = SignInRules()
        self._verifier = verifier

    @override
    async def reload(self, rules: SignInRules) -> None:
        self._rules = rules
        self._metadata.forget()
        await self._verifier.set_issuers(rules.issuers)

    @override
    def issuers(self) -> tuple[str, ...]:
        return tuple(issuer.issuer for issuer in self._rules.issuers)

    @override
    async def authenticate(self, token: str) -> Principal:
        claims = await self._verifier.verify(token)
        async with store_answers_within():
            return await self._sign_ins.principal_of(claims, self._rules.roles)

    @override
    def roles(self) -> Mapping[str, Role]:
        return self._rules.roles

    @override
    def can_log_in(self, issuer: str) -> bool:
        """Return whether visitors can sign in at this issuer, which needs a client id."""
        return self._client_issuer(issuer) is not None

    @override
    async def begin_login(self, issuer: str, redirect_uri: str, *, anew: bool = False) -> LoginBegun:
        return await self._login_at(issuer).begin(redirect_uri, anew=anew)

    @override
    async def finish_login(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> LoginDone:
        """Return who signed in; the token must be for this server, of that issuer, and for our client."""
        token = await self._login_at(begun.issuer).finish(begun, answer, redirect_uri)
        claims = await self._verifier.verify(token)
        ours = self._client_issuer(begun.issuer)
        if claims.issuer.issuer != begun.issuer or claims.is_service:
            raise NotAuthenticatedError("This sign-in is another's; begin again.")
        if ours is None or claims.client_id not in {None, ours.client_id}:
            raise NotAuthenticatedError("This sign-in is another program's; begin again.")
        return LoginDone(await self._sign_ins.principal_of(claims, self._rules.roles), claims.subject)

    @override
    async def is_linked(self, issuer: str, subject: str | None, user_id: UserId) -> bool:
        return await self._sign_ins.is_linked(issuer, subject, user_id)

    def _client_issuer(self, issuer: str) -> Issuer | None:
        return next((one for one in self._rules.issuers if one.issuer == issuer and one.client_id), None)

    def _login_at(self, issuer: str) -> Login:
        found = self._client_issuer(issuer)
        if found is None:
            raise NotAuthenticatedError("Nobody can sign in here for this; its operator sets the issuer's client_id.")
        return Login(found, self._resource, self._fetch, self._metadata)

    async def aclose(self) -> None:
        """Stop contacting the issuers."""
        await self._verifier.aclose()


@asynccontextmanager
async def open_authenticator(resource: str, sign_ins: SignIns, clock: Clock) -> AsyncGenerator[OAuthAuthenticator]:
    """Open an authenticator, which trusts no issuer until it gets its rules."""
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # no cookies: the client is shared by all users
    async with httpx2.AsyncClient(cookies=cookies) as client, asyncio.TaskGroup() as group:
        fetch = HttpFetch(client)
        verifier = TokenVerifier(resource, fetch, clock, group)
        authenticator = OAuthAuthenticator(fetch, MetadataMemory(fetch, clock), resource, verifier, sign_ins)
        try:
            yield authenticator
        finally:
            await authenticator.aclose()
