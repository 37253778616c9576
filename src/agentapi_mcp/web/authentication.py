"""Authentication of HTTP requests, as an OAuth 2.1 resource server (MCP authorization, 2026-07-28)."""

import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http import HTTPStatus

from cachetools import LRUCache
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.base import log_context
from agentapi_mcp.base.errors import (
    AgentApiError,
    LimitExceededError,
    NotAuthenticatedError,
    PermissionDeniedError,
    TokenFlaw,
    retry_after_seconds,
)
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.base.store_waits import store_answers_within
from agentapi_mcp.core.access.personal_tokens import NOT_VALID, PREFIX
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditOutcome, EventOwner
from agentapi_mcp.core.identity.principals import Principal, TokenScope
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.auth_rate_limit import AuthRateLimit, TokenAttempt
from agentapi_mcp.web.bearer import Bearer, bearer_of, digest_of
from agentapi_mcp.web.forwarding import is_forwarded
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal
from agentapi_mcp.web.oauth import OAuth, challenge
from agentapi_mcp.web.requests import PRINCIPAL, address_of, head_of, source_of
from agentapi_mcp.web.stream_reauth import GRANT, REAUTHENTICATE_EVERY, StreamGrant
from agentapi_mcp.web.turnstile import Sender

# What a client requests at first; it steps up when a call needs more.
_FIRST_SCOPES = f"{TokenScope.READ} {TokenScope.CHAT} {TokenScope.EDIT}"
_FORWARDED = Refusal(
    status=HTTPStatus.FORBIDDEN,
    message="A proxy forwards this request, and this server answers without a token on its own machine alone. Its "
    "operator gives it a token (AGENTAPI_BEARER_TOKEN, --require-token or a sign-in), or starts it with --insecure.",
)
_MOST_REMEMBERED = 10_000  # tokens whose owners are remembered
_NEVER_IN_THE_URL = "Never put the token into the URL, where logs keep it: send Authorization: Bearer and the token."
_IN_THE_URL = frozenset({"access_token", "bearer_token", "token", "api_key"})


@dataclass(frozen=True, slots=True)
class AcceptedTokens:
    """Which tokens are accepted beside personal ones; `needs_token` requires one in any case.

    Where none is required, `serves_forwarded` says whether that also holds for what an unknown proxy forwards.
    """

    token: str | None = field(default=None, repr=False)
    oauth: OAuth | None = None
    needs_token: bool = False
    serves_forwarded: bool = False

    @property
    def requires_token(self) -> bool:
        """Whether a request must carry a token."""
        return self.needs_token or self.token is not None or self.oauth is not None


class TokenAuthenticator:
    """Verifies the server's own token, personal tokens, and access tokens of issuers.

    All mounts share one, so that invalid tokens are counted together.
    """

    def __init__(self, services_provider: ServicesProvider, accepted: AcceptedTokens, refused: AuthRateLimit) -> None:
        self.accepted = accepted
        self._services_provider = services_provider
        self._refused = refused
        self._digest = None if accepted.token is None else digest_of(accepted.token)
        self._owners = LRUCache[bytes, UserId | None](_MOST_REMEMBERED)

    def sender_of(self, scope: Scope) -> Sender:
        """Return who sends a request, as far as that can be told before its token is verified.

        It is the user whose token this was when it was last found valid, or else the address: so a user with many
        tokens is one sender, and so is whoever makes them up.
        """
        if b"authorization" in head_of(scope).first:
            digest = bearer_of(scope).digest
            if digest in self._owners:
                return Sender(("user", self._owners[digest]), is_known=True)
        return Sender(("address", source_of(scope)), is_known=False)

    async def identify(self, scope: Scope) -> Principal | None:
        """Return the sender of a request; None is the operator, whom the server's own token stands for.

        Raises:
            NotAuthenticatedError: there is no token, or it is not valid for this server.
            PermissionDeniedError: its owner has no account or organisation here.
            LimitExceededError: the token is not valid, and too many were refused from the same address.
            StoreUnavailableError: the stores are down.
        """
        bearer, has_header = bearer_of(scope), b"authorization" in head_of(scope).first
        if _is_in_the_url(scope):
            flaw = TokenFlaw.MALFORMED if has_header else TokenFlaw.FORGED
            raise NotAuthenticatedError(_NEVER_IN_THE_URL, flaw=flaw)
        if not has_header:
            raise NotAuthenticatedError("Send Authorization: Bearer and a token for this server.")
        try:
            principal = await self._principal(bearer)
        except NotAuthenticatedError as exc:
            self._refused.refuse(TokenAttempt(source_of(scope), bearer.digest), exc.flaw)
            raise
        self._owners[bearer.digest] = None if principal is None else principal.user_id
        return principal

    async def reauthenticate(self, scope: Scope) -> Principal | None:
        """Verify the token of an open stream again."""
        # Past the rate limit: invalid tokens from the same address must not end another client's stream.
        return await self._verify(bearer_of(scope))

    async def record_refusal(self, scope: Scope, error: AgentApiError) -> None:
        """Record an invalid token in the audit log."""
        # A client without a token is not an attempt: it only requests the challenge, to find the issuer.
        services = self._services_provider.find()
        if services is None or not (_authorization_headers(scope) or _is_in_the_url(scope)):
            return
        member = error.member if isinstance(error, PermissionDeniedError) else None
        await services.audit.record(
            None,
            AuditAction.SIGN_IN_REFUSED,
            outcome=AuditOutcome.REFUSED,
            details=AuditDetails(reason=error.code),
            whose=None if member is None else EventOwner(OrgId(member[1]), UserId(member[0])),
        )

    async def _principal(self, bearer: Bearer) -> Principal | None:
        """Verify a token; if it is not valid and its form tells why, that is what is said."""
        if bearer.fault:
            raise bearer.error()
        try:
            return await self._verify(bearer)
        except NotAuthenticatedError as exc:
            raise bearer.hint() or exc from None

    async def _verify(self, bearer: Bearer) -> Principal | None:
        token = bearer.token
        # Digests in constant time: neither the length nor a common prefix of the token shows in the timing.
        if self._digest is not None and hmac.compare_digest(bearer.digest, self._digest):
            return None
        if token.startswith(PREFIX):
            services = await self._services_provider.services()
            async with store_answers_within():
                return await services.personal_tokens.principal_of(token)
        if not token or self.accepted.oauth is None:
            raise NotAuthenticatedError(NOT_VALID)
        return await self.accepted.oauth.authenticate(token)


class Authentication:
    """Middleware that authenticates the requests of a mount.

    A server that requires no token still verifies a personal one, and limits the request to what its owner may do.
    """

    def __init__(
        self,
        app: ASGIApp,
        mount: Mount,
        authenticator: TokenAuthenticator,
        *,
        reauthenticate_every: timedelta = REAUTHENTICATE_EVERY,
    ) -> None:
        self._app = app
        self._mount = mount
        self._authenticator = authenticator
        self._every = reauthenticate_every

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        log_context.address.set(address_of(scope))
        if not self._is_verified(scope):
            if self._comes_from_elsewhere(scope):
                await self._mount.render(_FORWARDED)(scope, receive, send)
            else:
                scope[PRINCIPAL] = None
                await self._app(scope, receive, send)
            return
        try:
            principal = await self._authenticator.identify(scope)
        except AgentApiError as exc:
            refusal = await self._refusal(scope, exc)
            await self._mount.render(refusal)(scope, receive, send)
        else:
            again = partial(self._authenticator.reauthenticate, scope)
            grant = None if principal is None else StreamGrant(principal, again, self._every)
            scope[PRINCIPAL], scope[GRANT] = principal, grant
            await self._app(scope, receive, send)

    def _is_verified(self, scope: Scope) -> bool:
        match self._mount.authentication:
            case AuthenticationMode.OPEN:
                return False
            case AuthenticationMode.OPTIONAL:
                return bool(_authorization_headers(scope)) or _is_in_the_url(scope)
            case AuthenticationMode.REQUIRED:
                accepted = self._authenticator.accepted
                return accepted.requires_token or any(PREFIX in header for header in _authorization_headers(scope))

    def _comes_from_elsewhere(self, scope: Scope) -> bool:
        is_required = self._mount.authentication is AuthenticationMode.REQUIRED
        return is_required and not self._authenticator.accepted.serves_forwarded and is_forwarded(scope)

    async def _refusal(self, scope: Scope, error: AgentApiError) -> Refusal:
        match error:
            case NotAuthenticatedError():
                await self._authenticator.record_refusal(scope, error)
                headers = {"www-authenticate": self._challenge(scope, error)}
                # RFC 6750, section 3.1; MCP authorization, error handling.
                is_malformed = error.flaw is TokenFlaw.MALFORMED
                status = HTTPStatus.BAD_REQUEST if is_malformed else HTTPStatus.UNAUTHORIZED
                return Refusal(status=status, message=str(error), headers=headers)
            case PermissionDeniedError():  # no challenge: another token would not help
                await self._authenticator.record_refusal(scope, error)
                return Refusal(status=HTTPStatus.FORBIDDEN, message=str(error))
            case LimitExceededError():
                headers = {"retry-after": str(retry_after_seconds(error))}
                return Refusal(status=HTTPStatus.TOO_MANY_REQUESTS, message=str(error), error=error, headers=headers)
            case _:
                headers = {"retry-after": "5"}
                return Refusal(status=HTTPStatus.SERVICE_UNAVAILABLE, message=str(error), error=error, headers=headers)

    def _challenge(self, scope: Scope, error: NotAuthenticatedError) -> str:
        """Return the challenge that leads a client to the sign-in; without a token there is no error in it."""
        parameters: list[tuple[str, str]] = []
        is_malformed = error.flaw is TokenFlaw.MALFORMED
        if is_malformed or bearer_of(scope).token:
            kind = "invalid_request" if is_malformed else "invalid_token"
            parameters = [("error", kind), ("error_description", str(error).replace('"', "'"))]
        oauth = self._authenticator.accepted.oauth
        return challenge(oauth, parameters, None if oauth is None else _FIRST_SCOPES)


def _is_in_the_url(scope: Scope) -> bool:
    query: bytes = scope["query_string"]
    return query != b"" and not _IN_THE_URL.isdisjoint(QueryParams(query))


def _authorization_headers(scope: Scope) -> list[str]:
    return [value.decode("latin-1") for value in head_of(scope).all(b"authorization")]
