"""Who sends an HTTP request: this server as an OAuth 2.1 resource server (MCP authorization, 2026-07-28)."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentapi_mcp.core import contexts
from agentapi_mcp.core.errors import (
    AgentApiError,
    LimitExceededError,
    NotAuthenticatedError,
    PermissionDeniedError,
    retry_after_seconds,
)
from agentapi_mcp.core.identity import Principal, TokenScope
from agentapi_mcp.core.personal_tokens import NOT_VALID, PREFIX
from agentapi_mcp.core.ports import Clock
from agentapi_mcp.core.records.audit import AuditAction, AuditDetails, AuditOutcome
from agentapi_mcp.core.services import Gate
from agentapi_mcp.mcp.admissions import ADMISSION, EVERY, Admission
from agentapi_mcp.mcp.callers import PRINCIPAL, address_of
from agentapi_mcp.mcp.errors import explain
from agentapi_mcp.mcp.exchanges import Wire
from agentapi_mcp.mcp.http_guards import OPEN_PATHS
from agentapi_mcp.mcp.refused_sign_ins import Attempt, RefusedSignIns, source_of

# What a client asks for at first; more when it meets something that needs it.
_FIRST_SCOPES = f"{TokenScope.READ} {TokenScope.CHAT} {TokenScope.EDIT}"
WELL_KNOWN = "/.well-known/oauth-protected-resource"
_IN_THE_URL = ("access_token", "bearer_token", "token", "api_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """This server as clients find it (RFC 9728): its address, for which tokens are made, and who lets in by them."""

    resource: str
    gate: Gate

    @property
    def metadata_url(self) -> str:
        """Where the metadata is (RFC 9728, section 3.1)."""
        parts = urlsplit(self.resource)
        return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path.rstrip('/')}"

    async def authenticate(self, token: str) -> Principal:
        """Tell whom a token lets in.

        Raises:
            NotAuthenticatedError: it is none for this server.
            PermissionDeniedError: its owner has no account or organisation here.
            StoreUnavailableError: nobody can be looked up now.
        """
        door = (await self.gate.services()).door
        if door is None:
            raise NotAuthenticatedError(NOT_VALID)
        return await door.authenticate(token)

    async def metadata(self, request: Request) -> Response:
        """Answer with the metadata."""
        try:
            door = (await self.gate.services()).door
        except AgentApiError as exc:
            return JSONResponse({"error": explain(exc)}, 503, headers={"retry-after": "5"})
        said = {
            "resource": self.resource,
            "authorization_servers": [] if door is None else list(door.issuers()),
            "scopes_supported": [str(scope) for scope in TokenScope],
            "bearer_methods_supported": ["header"],
            "resource_name": "AgentAPI",
        }
        del request
        return JSONResponse(said, headers={"cache-control": "public, max-age=300"})


@dataclass(frozen=True, slots=True)
class Accepted:
    """Which tokens are taken beside personal ones; with `needs_token` nobody comes in without any."""

    token: str | None
    oauth: OAuth | None
    needs_token: bool


class Authentication:
    """Lets in who has a token: the server's own, compared in constant time, a personal one, or one of an issuer.

    A server that asks nobody for a token takes whom a personal one names for its owner all the same, and no more.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        accepted: Accepted,
        clock: Clock,
        *,
        admitted_every: timedelta = EVERY,
    ) -> None:
        token, oauth = accepted.token, accepted.oauth
        self._every = admitted_every
        self._app = app
        self._gate = gate
        self._refused = RefusedSignIns(clock)
        self._digest = None if token is None else _digest(token)
        self._oauth = oauth
        self._asks = accepted.needs_token or token is not None or oauth is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_open = scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["path"].startswith(WELL_KNOWN)
        if is_open or (not self._asks and not any(PREFIX in given for given in _given(scope))):
            await self._app({**scope, PRINCIPAL: None}, receive, send)
            return
        wire = Wire(scope, receive, send)
        contexts.address.set(address_of(scope))
        try:
            principal = await self._identify(scope)
        except NotAuthenticatedError as exc:
            error = "invalid_token" if "authorization" in Headers(scope=scope) else None
            await self._record(scope, exc)
            await self._challenge(wire, exc, error)
        except PermissionDeniedError as exc:
            await self._record(scope, exc)
            await wire.refuse(403, INVALID_REQUEST, str(exc))  # no challenge: another token would not help
        except LimitExceededError as exc:
            wait = str(retry_after_seconds(exc)).encode()
            await wire.refuse(429, INTERNAL_ERROR, explain(exc), [(b"retry-after", wait)])
        except AgentApiError as exc:
            await wire.refuse(503, INTERNAL_ERROR, explain(exc), [(b"retry-after", b"5")])
        else:
            user = None if principal is None else _user(principal)
            # A stream's token is asked for again whoever else guesses at its address.
            again = partial(self._verify, *_presented(scope))
            held = None if principal is None else Admission(principal, again, self._every)
            await self._app({**scope, PRINCIPAL: principal, "user": user, ADMISSION: held}, receive, send)

    async def _identify(self, scope: Scope) -> Principal | None:
        """Tell who asks; None is the server's own user, for whom its own token stands."""
        if _is_in_the_url(scope):
            raise NotAuthenticatedError(
                "Never put the token into the URL, where logs keep it: send Authorization: Bearer and the token."
            )
        if not _given(scope):
            raise NotAuthenticatedError("Send Authorization: Bearer and a token for this server.")
        token, digest = _presented(scope)
        attempt = Attempt(source_of(scope), digest)
        async with self._refused.looking_at(attempt):
            try:
                principal = await self._verify(token, digest)
            except NotAuthenticatedError as exc:
                self._refused.refuse(attempt, was_good=exc.was_good)
                raise
            self._refused.accept(attempt)
        return principal

    async def _verify(self, token: str, digest: bytes) -> Principal | None:
        if self._digest is not None and hmac.compare_digest(digest, self._digest):
            return None
        if token.startswith(PREFIX):
            return await (await self._gate.services()).personal_tokens.principal_of(token)
        if not token or self._oauth is None:
            raise NotAuthenticatedError(NOT_VALID)
        return await self._oauth.authenticate(token)

    async def _challenge(self, wire: Wire, error: AgentApiError, code: str | None) -> None:
        """Refuse with a challenge that leads a client to the sign-in (RFC 6750, section 3; RFC 9728, section 5.1)."""
        said = [("realm", "agentapi-mcp")]
        if code is not None:
            said += [("error", code), ("error_description", str(error).replace('"', "'"))]
        if self._oauth is not None:
            said += [("resource_metadata", self._oauth.metadata_url), ("scope", _FIRST_SCOPES)]
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in said)
        await wire.refuse(
            401, INVALID_REQUEST, str(error), [(b"www-authenticate", challenge.encode("ascii", "replace"))]
        )

    async def _record(self, scope: Scope, error: AgentApiError) -> None:
        """Record a token that is not taken; who has sent none has only asked where to get one."""
        services = self._gate.find()
        if services is None or not ("authorization" in Headers(scope=scope) or _is_in_the_url(scope)):
            return
        await services.audit.record(
            None, AuditAction.SIGN_IN_REFUSED, outcome=AuditOutcome.REFUSED, details=AuditDetails(reason=error.code)
        )


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


def _user(principal: Principal) -> AuthenticatedUser:
    """Say it as the SDK does, which lets nobody post into a stream that somebody else has opened."""
    said = AccessToken(token="", client_id=str(principal.org_id), scopes=[], subject=str(principal.user_id))
    return AuthenticatedUser(said)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
