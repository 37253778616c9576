"""What all pages have in common: their cookie and headers, redirects, and errors as pages."""

import html
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agentapi_mcp.base.errors import (
    AgentApiError,
    CallerError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.text import one_line
from agentapi_mcp.core.keys.page_visits import SignedInVisit
from agentapi_mcp.web.mounts import Refusal

_YEAR = 31_536_000  # seconds
_LONGEST_MESSAGE = 1000
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
_SIGN_OUT = (
    '<form method="post" action="{action}"><input type="hidden" name="form_token" value="{token}">'
    "<p><button>Sign out</button></p></form>"
)
_SIGN_IN_ANEW = '<p><a href="{path}">Sign in as somebody else</a></p>'
_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>"
)
_log = logging.getLogger(__name__)
Serve = Callable[[Request], Awaitable[Response]]


class PageAnswers:
    """The answers of a server's pages below `/FOLDER/` at this origin; their visits are in a cookie of theirs.

    `way_on` is HTML that says at the end of each error where to go from there.
    """

    def __init__(self, origin: str, folder: str, way_on: str = "") -> None:
        self._folder = folder
        self._way_on = way_on
        self._is_secure = origin.startswith("https:")
        # RFC 6797, section 7.2: never over http. Without subdomains, which are not ours to decide about.
        self._headers = {"strict-transport-security": f"max-age={_YEAR}"} if self._is_secure else {}
        # With the prefix __Host-, browsers accept it over HTTPS only, and for this host alone (RFC 6265bis).
        cookie = f"agentapi-{folder}"
        self._cookie = f"__Host-{cookie}" if self._is_secure else cookie

    def render(self, refusal: Refusal) -> Response:
        """Render a rejection by the HTTP host as a page."""
        page = failure(refusal.message, refusal.status)
        page.headers.update({**refusal.headers, **self._headers})
        return page

    async def refuse(self, _request: Request, error: Exception) -> Response:
        """Answer a request that no page is there for."""
        if not isinstance(error, HTTPException):
            raise error
        message = "There is no such page." if error.status_code == HTTPStatus.NOT_FOUND else error.detail
        return self.render(Refusal(status=error.status_code, message=message, headers=error.headers or {}))

    def guarded(self, serve: Serve) -> Serve:
        """Wrap a step of a visit: its errors become pages."""

        async def guarded(request: Request) -> Response:
            try:
                response = await serve(request)
            except AgentApiError as exc:
                status = next(status for kind, status in _STATUS if isinstance(exc, kind))
                _log.info("key_page_refused", extra={"status": status, "code": exc.code})
                response = failure(str(exc), status, self._way_on_from(status))
            response.headers.update(self._headers)
            return response

        return guarded

    def sealed(self, request: Request) -> str:
        """Return the encrypted visit of a request."""
        return request.cookies.get(self._cookie, "")

    def redirect(self, url: str, sealed: str) -> Response:
        """Redirect a visitor, and keep the encrypted visit in their browser."""
        return self.keep(redirect_to(url), sealed)

    def keep(self, response: Response, sealed: str) -> Response:
        """Keep the encrypted visit in the browser, until it is closed; how long a visit is good, it says itself."""
        response.set_cookie(
            self._cookie,
            sealed,
            path="/",
            secure=self._is_secure,
            httponly=True,
            samesite="lax",  # not strict: the redirect from the issuer is a cross-site navigation
        )
        return response

    def sign_out(self, visit: SignedInVisit) -> str:
        """Return in HTML the form by which a visitor ends the visit."""
        return _SIGN_OUT.format(action=f"/{self._folder}/sign-out", token=html.escape(visit.form_token))

    def _way_on_from(self, status: int) -> str:
        # The issuer may still know who was refused here, and would bring them back without a question.
        anew = _SIGN_IN_ANEW.format(path=f"/{self._folder}/sign-in") if status == HTTPStatus.FORBIDDEN else ""
        return anew + self._way_on

    def end(self, response: Response) -> Response:
        """Forget the visit."""
        response.delete_cookie(self._cookie, path="/", secure=self._is_secure, httponly=True, samesite="lax")
        return response


def redirect_to(url: str) -> Response:
    """Redirect a browser, and leave its visit as it is."""
    return RedirectResponse(url, 303, headers=_HEADERS)


def failure(message: str, status: int, way_on: str = "") -> Response:
    """Return a page that says what did not work; `way_on` is HTML."""
    # A message may name what came with the request.
    return page("This did not work", f"<p>{html.escape(one_line(message, _LONGEST_MESSAGE))}</p>{way_on}", status)


def for_whom(visit: SignedInVisit) -> str:
    """Return in HTML whom a page is for: a visitor who was led to another's sign-in can see that."""
    account = _shown(visit.names.account or str(visit.principal.user_id))
    organization = _shown(visit.names.organization or str(visit.principal.org_id))
    return f"<p>For the account {account} in the organisation {organization}.</p>"


def _shown(name: str) -> str:
    """Return a name in HTML, without characters that turn or hide text."""
    return f"<strong>{html.escape(one_line(name))}</strong>"


def page(title: str, body: str, status: int = 200) -> Response:
    """Return a page; the title and the body are HTML."""
    return HTMLResponse(_PAGE.format(title=title, body=body), status, headers=_HEADERS)
