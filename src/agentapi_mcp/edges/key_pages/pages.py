"""The page where a user enters an API key, after login; only the user that requested the page reaches the form."""

import html

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.core.keys.page_visits import KeyPageVisits, RequestedVisit
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.key_pages.account_pages import AccountPages
from agentapi_mcp.edges.key_pages.answers import PageAnswers, for_whom, page
from agentapi_mcp.edges.key_pages.forms import own_form
from agentapi_mcp.edges.key_pages.sign_in import SignInSteps
from agentapi_mcp.web.mounts import AuthenticationMode, Mount, pass_on

_MAX_FORM_BYTES = 16 * 1024
_FORM = (
    "{for_whom}"
    "<p>It is kept sealed, and used for your own messages in place of the server's. Nobody can read it again.</p>"
    '{fault}<form method="post" action="/keys/enter" autocomplete="off">'
    '<input type="hidden" name="form_token" value="{token}">'
    '<p><label>API key for {provider}: <input type="password" name="key" required maxlength="2000" size="60" '
    'autocomplete="off" spellcheck="false"></label></p><p><button>Save</button></p></form>'
)


def key_pages_mount(services_provider: ServicesProvider, origin: str) -> Mount:
    """Mount the pages: browsers have no token and log in on the page; only its own origin may post the form."""
    keys, accounts = KeyPages(services_provider, origin), AccountPages(services_provider, origin)
    answers = PageAnswers(origin, "")
    app = Starlette(
        routes=[*keys.routes, *accounts.routes],
        exception_handlers={HTTPException: answers.refuse, Exception: pass_on},
    )
    # Starlette would redirect to an absolute address, with the scheme that a proxy speaks to us, without our headers.
    app.router.redirect_slashes = False
    return Mount(
        paths=("/keys", "/accounts"),
        app=app,
        authentication=AuthenticationMode.OPEN,
        render=answers.render,
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
        self._answers = answers = PageAnswers(origin, "keys")
        sign_in = SignInSteps(answers, origin, "keys", self._visits)
        self.routes = [
            *sign_in.routes,
            Route("/keys/sign-in", answers.guarded(sign_in.begin_anew), methods=["GET"]),
            Route(KeyPageVisits.page, answers.guarded(self._show), methods=["GET"]),
            Route(KeyPageVisits.page, answers.guarded(self._save), methods=["POST"]),
        ]

    async def _show(self, request: Request) -> Response:
        """Show the form, or that the key is saved."""
        visits, sealed = await self._visits(), self._answers.sealed(request)
        farewell = visits.farewell(sealed)
        if farewell:
            return self._answers.end(page("The key is saved", f"<p>{' '.join(farewell)}</p>"))
        return self._form(await visits.find(sealed))

    async def _save(self, request: Request) -> Response:
        """Store the key that was entered."""
        form, visits = await own_form(request, self._origin), await self._visits()
        visit = await visits.find(self._answers.sealed(request))
        try:
            redirect = await visits.save(visit, form.get("form_token", ""), SecretStr(form.get("key", "")))
        except InvalidRequestError as exc:
            return self._form(visit, fault=str(exc))
        # A page as the answer would be sent again with the key by whoever reloads it.
        return self._answers.redirect(redirect.url, redirect.sealed)

    def _form(self, visit: RequestedVisit, fault: str = "") -> Response:
        provider = html.escape(visit.provider)
        body = _FORM.format(
            token=html.escape(visit.form_token),
            provider=provider,
            for_whom=for_whom(visit),
            fault=f"<p><strong>{html.escape(fault)}</strong></p>" if fault else "",
        )
        body += self._answers.sign_out(visit)
        return page(f"Your API key for {provider}", body, 400 if fault else 200)

    async def _visits(self) -> KeyPageVisits:
        return (await self._services_provider.services()).key_page_visits
