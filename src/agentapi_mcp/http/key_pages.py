"""The page where somebody enters an API key: they sign in first, and only who asked for it comes that far."""

import hmac
import html
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from agentapi_mcp.core.errors import (
    AgentApiError,
    CallerError,
    InvalidRequestError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.core.identity import Principal
from agentapi_mcp.core.principals import Credential, member
from agentapi_mcp.core.records.audit import AuditTarget
from agentapi_mcp.core.records.key_requests import KeyRequest, Visit
from agentapi_mcp.core.records.logins import LoginAnswer
from agentapi_mcp.core.services import Door, Gate, Services

_LARGEST = 16 * 1024
_MINUTES_15 = 900
_SIGNED_IN, _ENTER = "/keys/signed-in", "/keys/enter"
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",  # not less: without it a browser hides the origin of our own form
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_STATUS: tuple[tuple[type[AgentApiError], int], ...] = (
    (NotAuthenticatedError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (CallerError, 400),
    (AgentApiError, 503),
)
_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>"
)
_FORM = (
    "<p>It is kept sealed, and used for your own messages in place of the server's. Nobody can read it again.</p>"
    '{fault}<form method="post" action="/keys/enter" autocomplete="off">'
    '<input type="hidden" name="form_token" value="{token}">'
    '<p><label>API key for {provider}: <input type="password" name="key" required maxlength="2000" size="60" '
    'autocomplete="off" spellcheck="false"></label></p><p><button>Save</button></p></form>'
)
_log = logging.getLogger(__name__)
Serve = Callable[[Request], Awaitable[Response]]


class KeyPages:
    """The pages of one server, which browsers reach at this origin."""

    def __init__(self, gate: Gate, origin: str) -> None:
        self._gate = gate
        self._origin = origin
        self._is_secure = origin.startswith("https:")
        self._cookie = "__Host-agentapi-keys" if self._is_secure else "agentapi-keys"
        self.app = Starlette(
            routes=[
                Route("/keys/new", _guarded(self._begin), methods=["GET"]),
                Route(_SIGNED_IN, _guarded(self._admit), methods=["GET"]),
                Route(_ENTER, _guarded(self._show), methods=["GET"]),
                Route(_ENTER, _guarded(self._save), methods=["POST"]),
            ]
        )

    async def _begin(self, request: Request) -> Response:
        """Send whoever opened the link to sign in."""
        services, door = await self._open()
        asked = await services.key_entries.find(request.query_params.get("request", ""))
        begun = await door.begin_login(asked.issuer, self._origin + _SIGNED_IN)
        return self._to(begun.url, services, Visit(token_sha256=asked.token_sha256, login=begun))

    async def _admit(self, request: Request) -> Response:
        """Take who comes back from the sign-in, if it is who asked."""
        services, door = await self._open()
        visit = self._visit(request, services)
        if visit.login is None:
            raise NotAuthenticatedError("You did not come from the sign-in; open the link again.")
        said = request.query_params
        answer = LoginAnswer(
            state=said.get("state"), code=said.get("code"), issuer=said.get("iss"), error=said.get("error")
        )
        visitor = await door.finish_login(visit.login, answer, self._origin + _SIGNED_IN)
        try:
            admitted = await services.key_entries.admit(visit, visitor)
        except PermissionDeniedError as exc:
            await services.audit.denied(visitor, exc, AuditTarget("page", _ENTER))
            raise
        await services.audit.signed_in(visitor)
        return self._to(_ENTER, services, admitted)

    async def _show(self, request: Request) -> Response:
        """Show the form."""
        services, _ = await self._open()
        visit, asked, _ = await self._visitor(request, services)
        return _form(asked, visit)

    async def _save(self, request: Request) -> Response:
        """Keep what was entered."""
        if request.headers.get("origin") != self._origin:
            raise PermissionDeniedError("This form was not sent from this page; open the link again.")
        services, _ = await self._open()
        visit, asked, visitor = await self._visitor(request, services)
        form = await _read(request)
        if not hmac.compare_digest(form.get("form_token", "").encode(), (visit.form_token or "").encode()):
            raise PermissionDeniedError("This form is another visit's; open the link again.")
        try:
            await services.key_entries.save(visit, visitor, SecretStr(form.get("key", "")))
        except InvalidRequestError as exc:
            return _form(asked, visit, fault=str(exc))
        done = _page("The key is saved", "<p>It is used from your next message on. You can close this page.</p>")
        done.delete_cookie(self._cookie, path="/", secure=self._is_secure, httponly=True, samesite="lax")
        return done

    async def _open(self) -> tuple[Services, Door]:
        services = await self._gate.services()
        if services.door is None:
            raise NotFoundError("Nobody can sign in here.")
        return services, services.door

    def _visit(self, request: Request, services: Services) -> Visit:
        return services.key_entries.open_(request.cookies.get(self._cookie, ""))

    async def _visitor(self, request: Request, services: Services) -> tuple[Visit, KeyRequest, Principal]:
        """Tell who has signed in, as they are in their organisation now."""
        visit = self._visit(request, services)
        if not visit.form_token:
            raise NotAuthenticatedError("You have not signed in yet; open the link again.")
        asked = await services.key_entries.visited(visit)
        membership = await services.profiles.find_membership(asked.user_id, asked.org_id)
        if membership is None or services.door is None:
            raise PermissionDeniedError("You are no member of this organisation any more.")
        signed_in = Credential(via=asked.issuer)
        return visit, asked, member(asked.user_id, membership, services.door.roles(), signed_in)

    def _to(self, url: str, services: Services, visit: Visit) -> Response:
        response = RedirectResponse(url, 303, headers=_HEADERS)
        response.set_cookie(
            self._cookie,
            services.key_entries.seal(visit),
            max_age=_MINUTES_15,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="lax",  # not strict: who comes back from the sign-in comes from another site
        )
        return response


def _guarded(serve: Serve) -> Serve:
    async def guarded(request: Request) -> Response:
        try:
            return await serve(request)
        except AgentApiError as exc:
            status = next(status for kind, status in _STATUS if isinstance(exc, kind))
            _log.info("key_page_refused", extra={"status": status, "code": exc.code})
            return _page("This did not work", f"<p>{html.escape(str(exc))}</p>", status)

    return guarded


async def _read(request: Request) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise InvalidRequestError("The form is too large.")
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=10)
    except ValueError as exc:
        raise InvalidRequestError("This is no form of this page.") from exc
    return {name: values[0] for name, values in fields.items()}


def _form(asked: KeyRequest, visit: Visit, fault: str = "") -> Response:
    provider = html.escape(asked.provider)
    body = _FORM.format(
        token=html.escape(visit.form_token or ""),
        provider=provider,
        fault=f"<p><strong>{html.escape(fault)}</strong></p>" if fault else "",
    )
    return _page(f"Your API key for {provider}", body, 400 if fault else 200)


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(title=title, body=body), status, headers=_HEADERS)
