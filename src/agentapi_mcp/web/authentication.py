"""Who sends an HTTP request: this server as an OAuth 2.1 resource server (MCP authorization, 2026-07-28)."""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http import HTTPStatus

from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.base import log_context
from agentapi_mcp.base.errors import (
    AgentApiError,
    LimitExceededError,
    NotAuthenticatedError,
    PermissionDeniedError,
    retry_after_seconds,
)
from agentapi_mcp.core.access.personal_tokens import NOT_VALID, PREFIX
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditOutcome
from agentapi_mcp.core.identity.principals import Principal, TokenScope
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.auth_rate_limit import AuthRateLimit, TokenAttempt
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal
from agentapi_mcp.web.oauth import OAuth, challenge
from agentapi_mcp.web.requests import PRINCIPAL, address_of, source_of
from agentapi_mcp.web.stream_reauth import GRANT, REAUTHENTICATE_EVERY, StreamGrant

# What a client asks for at first; more when it meets something that needs it.
_FIRST_SCOPES = f"{TokenScope.READ} {TokenScope.CHAT} {TokenScope.EDIT}"
_IN_THE_URL = ("access_token", "bearer_token", "token", "api_key")


@dataclass(frozen=True, slots=True)
class AcceptedTokens:
    """Which tokens are taken beside personal ones; with `needs_token` nobody comes in without any."""

    token: str | None = field(default=None, repr=False)
    oauth: OAuth | None = None
    needs_token: bool = False

    @property
    def asks(self) -> bool:
        """Whether a request must bring a token."""
        return self.needs_token or self.token is not None or self.oauth is not None


class TokenAuthenticator:
    """Verify tokens: the server's own, compared in constant time, personal ones, and those of issuers.

    One for all mounts, so that refused tokens are counted together.
    """

    def __init__(self, services_provider: ServicesProvider, accepted: AcceptedTokens, refused: AuthRateLimit) -> None:
        self.accepted = accepted
        self._services_provider = services_provider
        self._refused = refused
        self._digest = None if accepted.token is None else _digest(accepted.token)

    async def identify(self, scope: Scope) -> Principal | None:
        """Tell who sends a request; None is the server's own user, for whom its own token stands.

        Raises:
            NotAuthenticatedError: there is no token, or it is none for this server.
            PermissionDeniedError: its owner has no account or organisation here.
            LimitExceededError: too many tokens were refused from the same address.
            StoreUnavailableError: nobody can be looked up now.
        """
        if _is_in_the_url(scope):
            raise NotAuthenticatedError(
                "Never put the token into the URL, where logs keep it: send Authorization: Bearer and the token."
            )
        if not _given(scope):
            raise NotAuthenticatedError("Send Authorization: Bearer and a token for this server.")
        token, digest = _presented(scope)
        attempt = TokenAttempt(source_of(scope), digest)
        async with self._refused.looking_at(attempt):
            try:
                principal = await self._verify(token, digest)
            except NotAuthenticatedError as exc:
                self._refused.refuse(attempt, was_good=exc.was_good)
                raise
            self._refused.accept(attempt)
        return principal

    async def identify_again(self, scope: Scope) -> Principal | None:
        """Verify the request's token again, for a stream; guesses at the same address do not end it."""
        return await self._verify(*_presented(scope))

    async def record_refusal(self, scope: Scope, error: AgentApiError) -> None:
        """Record a token that is refused; a client that sent none has only asked where to get one."""
        services = self._services_provider.find()
        if services is None or not ("authorization" in Headers(scope=scope) or _is_in_the_url(scope)):
            return
        await services.audit.record(
            None, AuditAction.SIGN_IN_REFUSED, outcome=AuditOutcome.REFUSED, details=AuditDetails(reason=error.code)
        )

    async def _verify(self, token: str, digest: bytes) -> Principal | None:
        if self._digest is not None and hmac.compare_digest(digest, self._digest):
            return None
        if token.startswith(PREFIX):
            return await (await self._services_provider.services()).personal_tokens.principal_of(token)
        if not token or self.accepted.oauth is None:
            raise NotAuthenticatedError(NOT_VALID)
        return await self.accepted.oauth.authenticate(token)


class Authentication:
    """Find out who sends the requests of a mount, or refuse them.

    A server that asks nobody for a token takes whom a personal one names for its owner all the same, and no more.
    """

    def __init__(
        self,
        app: ASGIApp,
        mount: Mount,
        authenticator: TokenAuthenticator,
        *,
        admitted_every: timedelta = REAUTHENTICATE_EVERY,
    ) -> None:
        self._app = app
        self._mount = mount
        self._authenticator = authenticator
        self._every = admitted_every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        log_context.address.set(address_of(scope))
        if not self._is_verified(scope):
            await self._app({**scope, PRINCIPAL: None}, receive, send)
            return
        try:
            principal = await self._authenticator.identify(scope)
        except AgentApiError as exc:
            refusal = await self._refusal(scope, exc)
            await self._mount.render(refusal)(scope, receive, send)
        else:
            again = partial(self._authenticator.identify_again, scope)
            held = None if principal is None else StreamGrant(principal, again, self._every)
            await self._app({**scope, PRINCIPAL: principal, GRANT: held}, receive, send)

    def _is_verified(self, scope: Scope) -> bool:
        match self._mount.authentication:
            case AuthenticationMode.OPEN:
                return False
            case AuthenticationMode.OPTIONAL:
                return bool(_given(scope)) or _is_in_the_url(scope)
            case AuthenticationMode.REQUIRED:
                return self._authenticator.accepted.asks or any(PREFIX in given for given in _given(scope))

    async def _refusal(self, scope: Scope, error: AgentApiError) -> Refusal:
        match error:
            case NotAuthenticatedError():
                await self._authenticator.record_refusal(scope, error)
                headers = {"www-authenticate": self._challenge(scope, error)}
                return Refusal(status=HTTPStatus.UNAUTHORIZED, message=str(error), headers=headers)
            case PermissionDeniedError():  # no challenge: another token would not help
                await self._authenticator.record_refusal(scope, error)
                return Refusal(status=HTTPStatus.FORBIDDEN, message=str(error))
            case LimitExceededError():
                headers = {"retry-after": str(retry_after_seconds(error))}
                return Refusal(status=HTTPStatus.TOO_MANY_REQUESTS, message=str(error), error=error, headers=headers)
            case _:
                headers = {"retry-after": "5"}
                return Refusal(status=HTTPStatus.SERVICE_UNAVAILABLE, message=str(error), error=error, headers=headers)

    def _challenge(self, scope: Scope, error: AgentApiError) -> str:
        """Lead a client to the sign-in."""
        said: list[tuple[str, str]] = []
        if "authorization" in Headers(scope=scope):
            said = [("error", "invalid_token"), ("error_description", str(error).replace('"', "'"))]
        oauth = self._authenticator.accepted.oauth
        return challenge(oauth, said, None if oauth is None else _FIRST_SCOPES)


def _is_in_the_url(scope: Scope) -> bool:
    return any(name in QueryParams(scope["query_string"]) for name in _IN_THE_URL)


def _given(scope: Scope) -> list[str]:
    return Headers(scope=scope).getlist("authorization")


def _presented(scope: Scope) -> tuple[str, bytes]:
    """Return the token that a request brings, empty where it is none, with its digest."""
    given = _given(scope)
    kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    token = token.strip() if kind.lower() == "bearer" else ""
    return token, _digest(token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
