"""The page where a user enters an API key, after login; only the user that requested the page reaches the form."""

import html
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from agentapi_mcp.base.errors import (
    AgentApiError,
    CallerError,
    InvalidRequestError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.origins import Origin
from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.keys.page_visits import KeyPageVisits, SignedInVisit
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, Refusal, pass_on

_MAX_FORM_BYTES = 16 * 1024
_MINUTES_15 = 900
_YEAR = 31_536_000  # seconds
_SIGNED_IN, _ENTER = "/keys/signed-in", "/keys/enter"
_HEADERS = {
    # The page holds the form's token.
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",  # no stricter: browsers would send `Origin: null` with our own form
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
    "<p>For the account {account} in the organisation {organization}.</p>"
    "<p>It is kept sealed, and used for your own messages in place of the server's. Nobody can read it again.</p>"
    '{fault}<form method="post" action="/keys/enter" autocomplete="off">'
    '<input type="hidden" name="form_token" value="{token}">'
    '<p><label>API key for {provider}: <input type="password" name="key" required maxlength="2000" size="60" '
    'autocomplete="off" spellcheck="false"></label></p><p><button>Save</button></p></form>'
)
_log = logging.getLogger(__name__)
Serve = Callable[[Request], Awaitable[Response]]


def key_pages_mount(services_provider: ServicesProvider, origin: str) -> Mount:
    """Mount the pages: browsers have no token and log in on the page; only its own origin may post the form."""
    pages = KeyPages(services_provider, origin)
    return Mount(
        paths=("/keys/",),
        app=pages.app,
        authentication=AuthenticationMode.OPEN,
        render=pages.render,
        origins=(origin,),
        content_type="application/x-www-form-urlencoded",
        max_body_bytes=_MAX_FORM_BYTES,
        uses=(Resource.KEY_PAGES,),
    )


class KeyPages:
    """The key pages of a server at this origin."""

    def __init__(self, services_provider: ServicesProvider, origin: str) -> None:
        self._services_provider = services_provider
        self._origin = origin
        self._is_secure = origin.startswith("https:")
        # RFC 6797, section 7.2: never over http. Without subdomains, which are not ours to decide about.
        self._headers = {"strict-transport-security": f"max-age={_YEAR}"} if self._is_secure else {}
        # With the prefix __Host-, browsers accept it over HTTPS only, and for this host alone (RFC 6265bis).
        self._cookie = "__Host-agentapi-keys" if self._is_secure else "agentapi-keys"
        self.app = Starlette(
            routes=[
                Route("/keys/new", self._guarded(self._begin), methods=["GET"]),
                Route(_SIGNED_IN, self._guarded(self._admit), methods=["GET"]),
                Route(_ENTER, self._guarded(self._show), methods=["GET"]),
                Route(_ENTER, self._guarded(self._save), methods=["POST"]),
            ],
            exception_handlers={Exception: pass_on},
        )

    def render(self, refusal: Refusal) -> Response:
        """Render a rejection by the HTTP host as a page."""
        page = _failure(refusal.message, refusal.status)
        page.headers.update({**refusal.headers, **self._headers})
        return page

    def _guarded(self, serve: Serve) -> Serve:
        async def guarded(request: Request) -> Response:
            try:
                response = await serve(request)
            except AgentApiError as exc:
                status = next(status for kind, status in _STATUS if isinstance(exc, kind))
                _log.info("key_page_refused", extra={"status": status, "code": exc.code})
                response = _failure(str(exc), status)
            response.headers.update(self._headers)
            return response

        return guarded

    async def _begin(self, request: Request) -> Response:
        """Redirect the visitor who opened the link to the login."""
        visits = await self._visits()
        redirect = await visits.begin(request.query_params.get("request", ""), self._origin + _SIGNED_IN)
        return self._to(redirect.url, redirect.sealed)

    async def _admit(self, request: Request) -> Response:
        """Complete the login of a visitor who returns from the issuer."""
        visits, query = await self._visits(), request.query_params
        answer = LoginAnswer(
            state=query.get("state"), code=query.get("code"), issuer=query.get("iss"), error=query.get("error")
        )
        return self._to(_ENTER, await visits.sign_in(self._sealed(request), answer, self._origin + _SIGNED_IN))

    async def _show(self, request: Request) -> Response:
        """Show the form."""
        visits = await self._visits()
        return _form(await visits.find(self._sealed(request)))

    async def _save(self, request: Request) -> Response:
        """Store the key that was entered."""
        # Beside the form's token: browsers send Origin with every POST.
        if Origin.parse(request.headers.get("origin", "")) != Origin.parse(self._origin):
            raise PermissionDeniedError("This form was not sent from this page; open the link again.")
        visits = await self._visits()
        visit = await visits.find(self._sealed(request))
        form = _fields(await request.body())
        try:
            await visits.save(visit, form.get("form_token", ""), SecretStr(form.get("key", "")))
        except InvalidRequestError as exc:
            return _form(visit, fault=str(exc))
        done = _page("The key is saved", "<p>It is used from your next message on. You can close this page.</p>")
        done.delete_cookie(self._cookie, path="/", secure=self._is_secure, httponly=True, samesite="lax")
        return done

    async def _visits(self) -> KeyPageVisits:
        return (await self._services_provider.services()).key_page_visits

    def _sealed(self, request: Request) -> str:
        return request.cookies.get(self._cookie, "")

    def _to(self, url: str, sealed: str) -> Response:
        response = RedirectResponse(url, 303, headers=_HEADERS)
        response.set_cookie(
            self._cookie,
            sealed,
            max_age=_MINUTES_15,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="lax",  # not strict: the redirect from the issuer is a cross-site navigation
        )
        return response


def _fields(body: bytes) -> dict[str, str]:
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=10)
    except ValueError as exc:
        raise InvalidRequestError("This is no form of this page.") from exc
    return {name: values[0] for name, values in fields.items()}


def _failure(message: str, status: int) -> Response:
    return _page("This did not work", f"<p>{html.escape(message)}</p>", status)


def _form(visit: SignedInVisit, fault: str = "") -> Response:
    provider = html.escape(visit.provider)
    body = _FORM.format(
        token=html.escape(visit.form_token),
        provider=provider,
        account=_shown(visit.names.account or str(visit.principal.user_id)),
        organization=_shown(visit.names.organization or str(visit.principal.org_id)),
        fault=f"<p><strong>{html.escape(fault)}</strong></p>" if fault else "",
    )
    return _page(f"Your API key for {provider}", body, 400 if fault else 200)


def _shown(name: str) -> str:
    # Without characters that turn or hide text: it must say whom the key is for.
    return f"<strong>{html.escape(''.join(letter for letter in name if letter.isprintable()))}</strong>"


def _page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(title=title, body=body), status, headers=_HEADERS)
