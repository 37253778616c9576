"""The page where users see, connect and disconnect their accounts; it stands at one address, and needs no link."""

import html
from collections.abc import Sequence
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentapi_mcp.base.errors import NotAuthenticatedError, NotFoundError
from agentapi_mcp.core.accounts.page_visits import OVERVIEW, AccountPageVisits, OverviewRow
from agentapi_mcp.core.keys.page_visits import SignedInVisit
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.key_pages.answers import PageAnswers, for_whom, page, redirect_to
from agentapi_mcp.edges.key_pages.forms import own_form
from agentapi_mcp.edges.key_pages.sign_in import SignInSteps

TITLE = "Your accounts"
SIGN_IN = f"{OVERVIEW}sign-in"
_ANEW = "anew"  # query parameter of who wants to sign in as somebody else
_OVERVIEW = (
    "{notices}{for_whom}<p>An account pays for your own messages, in all of your organisations. "
    "Nobody can read again what its provider gave out for it.</p>"
    '<table><tr><th scope="col">Provider</th><th scope="col">State</th><th scope="col">Connected (UTC)</th>'
    '<th scope="col">Change</th></tr>{rows}</table>'
)
_ROW = '<tr><th scope="row">{provider}</th><td>{state}</td><td>{connected_at}</td><td>{forms}</td></tr>'
_NONE_DECLARED = "<p>This server connects no accounts, and you have none.</p>"
_FORM = (
    '<form method="post" action="{action}"><input type="hidden" name="form_token" value="{token}">'
    '<input type="hidden" name="provider" value="{provider}"><button>{button}</button></form>'
)


class AccountOverview:
    """The page at `OVERVIEW`, for visitors who sign in by these steps."""

    def __init__(
        self, services_provider: ServicesProvider, origin: str, answers: PageAnswers, sign_in: SignInSteps
    ) -> None:
        self._services_provider = services_provider
        self._origin = origin
        self._answers = answers
        self._steps = sign_in
        self.routes = [
            Route(OVERVIEW.rstrip("/"), answers.guarded(self._complete), methods=["GET"]),
            Route(OVERVIEW, answers.guarded(self._show), methods=["GET"]),
            Route(OVERVIEW, answers.guarded(self._disconnect), methods=["POST"]),
            Route(SIGN_IN, answers.guarded(self._sign_in), methods=["GET"]),
            Route(AccountPageVisits.page, answers.guarded(self._connect), methods=["POST"]),
        ]

    async def _complete(self, _request: Request) -> Response:
        """Redirect a visitor who typed the address without its last character."""
        return redirect_to(OVERVIEW)

    async def _show(self, request: Request) -> Response:
        """Show the accounts of a visitor, who signs in before that."""
        visits = await self._visits()
        try:
            visit = await visits.find_visitor(self._answers.sealed(request))
        except NotAuthenticatedError:
            return await self._choose_sign_in(visits)
        shown = page(TITLE, _overview(visit, await visits.overview(visit)) + self._answers.sign_out(visit))
        return self._answers.keep(shown, visits.told(visit)) if visit.visit.notices else shown

    async def _choose_sign_in(self, visits: AccountPageVisits, *, anew: bool = False) -> Response:
        """Redirect to the only sign-in, or let the visitor choose."""
        issuers = visits.issuers()
        if not issuers:
            raise NotFoundError("Nobody can sign in here; the operator sets the client_id of an issuer.")
        if len(issuers) == 1:
            return await self._redirect_to(visits, issuers[0], anew=anew)
        links = "".join(f"<li>{_link(issuer, anew=anew)}</li>" for issuer in issuers)
        return page(TITLE, f"<p>Sign in to see them:</p><ul>{links}</ul>")

    async def _sign_in(self, request: Request) -> Response:
        """Redirect a visitor to the sign-in that they chose; without a choice, to sign in as somebody else."""
        visits, chosen = await self._visits(), request.query_params
        if await visits.is_served(self._answers.sealed(request)):
            # Any site can link to here; only the button ends a visit.
            return redirect_to(OVERVIEW)
        if "issuer" in chosen:
            return await self._redirect_to(visits, chosen["issuer"], anew=_ANEW in chosen)
        if visits.has_link(self._answers.sealed(request)):
            return await self._steps.begin_anew(request)
        return await self._choose_sign_in(visits, anew=True)

    async def _disconnect(self, request: Request) -> Response:
        """Disconnect an account, and redirect its visitor back: a reload of the page disconnects nothing."""
        form, visits = await own_form(request, self._origin), await self._visits()
        visit = await visits.find_visitor(self._answers.sealed(request))
        redirect = await visits.disconnect(visit, form.get("form_token", ""), form.get("provider", ""))
        return self._answers.redirect(redirect.url, redirect.sealed)

    async def _connect(self, request: Request) -> Response:
        """Redirect a visitor to the page that connects an account, where links lead as well."""
        form, visits = await own_form(request, self._origin), await self._visits()
        visit = await visits.find_visitor(self._answers.sealed(request))
        redirect = await visits.begin_request(visit, form.get("form_token", ""), form.get("provider", ""))
        return self._answers.redirect(redirect.url, redirect.sealed)

    async def _redirect_to(self, visits: AccountPageVisits, issuer: str, *, anew: bool = False) -> Response:
        redirect = await visits.begin_at(issuer, self._steps.back_uri, anew=anew)
        return self._answers.redirect(redirect.url, redirect.sealed)

    async def _visits(self) -> AccountPageVisits:
        return (await self._services_provider.services()).account_page_visits


def _overview(visit: SignedInVisit, rows: Sequence[OverviewRow]) -> str:
    told = "".join(f"<p><strong>{html.escape(notice)}</strong></p>" for notice in visit.visit.notices)
    if not rows:
        return told + for_whom(visit) + _NONE_DECLARED
    written = "".join(_row(visit, row) for row in rows)
    return _OVERVIEW.format(notices=told, for_whom=for_whom(visit), rows=written)


def _row(visit: SignedInVisit, row: OverviewRow) -> str:
    forms = _form(visit, row, OVERVIEW, "Disconnect") if row.account is not None else ""
    if row.can_connect:
        forms = _form(visit, row, AccountPageVisits.page, "Connect" if row.account is None else "Connect again") + forms
    return _ROW.format(
        provider=html.escape(row.provider),
        state="not connected" if row.account is None else row.account.state,
        connected_at="" if row.account is None else f"{row.account.connected_at:%Y-%m-%d %H:%M}",
        forms=forms,
    )


def _form(visit: SignedInVisit, row: OverviewRow, action: str, button: str) -> str:
    token, provider = html.escape(visit.form_token), html.escape(row.provider)
    return _FORM.format(action=action, token=token, provider=provider, button=button)


def _link(issuer: str, *, anew: bool) -> str:
    url = f"{SIGN_IN}?{urlencode({'issuer': issuer} | ({_ANEW: 'yes'} if anew else {}))}"
    return f'<a href="{html.escape(url)}">{html.escape(issuer)}</a>'
