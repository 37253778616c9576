"""The pages for accounts: the one that connects an account, after login, and the overview beside it."""

import html

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentapi_mcp.core.accounts.page_visits import OVERVIEW, AccountPageVisits
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.key_pages.account_overview import SIGN_IN, TITLE, AccountOverview
from agentapi_mcp.edges.key_pages.answers import PageAnswers, for_whom, page
from agentapi_mcp.edges.key_pages.sign_in import SignInSteps, answer_of

_CALLBACK = "/accounts/callback"
# A link, no form: browsers apply `form-action` to the redirect of a form as well, which leads to the provider.
_OFFER = (
    "{for_whom}<p>What {provider} gives out for it is kept sealed, and pays for your own messages in place of the "
    "server's. Nobody can read it again.</p>"
    '<p><a href="{url}">Go to {provider}</a></p>'
)
_SIGN_IN_AGAIN = f'<p><a href="{SIGN_IN}">Sign in again</a></p>'
_TO_OVERVIEW = f'<p><a href="{OVERVIEW}">{TITLE}</a></p>'


class AccountPages:
    """The account pages of a server at this origin."""

    def __init__(self, services_provider: ServicesProvider, origin: str) -> None:
        self._services_provider = services_provider
        self._origin = origin
        self._answers = answers = PageAnswers(origin, "accounts", _TO_OVERVIEW)
        sign_in = SignInSteps(answers, origin, "accounts", self._visits, _SIGN_IN_AGAIN)
        self.routes = [
            *sign_in.routes,
            *AccountOverview(services_provider, origin, answers, sign_in).routes,
            Route(AccountPageVisits.page, answers.guarded(self._offer), methods=["GET"]),
            Route(_CALLBACK, answers.guarded(self._finish), methods=["GET"]),
        ]

    async def _offer(self, request: Request) -> Response:
        """Show whom the account is for, with the link to the provider."""
        visits = await self._visits()
        visit = await visits.find(self._answers.sealed(request))
        redirect = await visits.begin_consent(visit, self._origin + _CALLBACK)
        provider = html.escape(visit.provider)
        body = _OFFER.format(
            for_whom=for_whom(visit),
            provider=provider,
            url=html.escape(redirect.url),
        )
        body += self._answers.sign_out(visit)
        return self._answers.keep(page(f"Connect your account at {provider}", body), redirect.sealed)

    async def _finish(self, request: Request) -> Response:
        """Connect the account of a visitor who returns from the provider."""
        visits, sealed = await self._visits(), self._answers.sealed(request)
        done = await visits.finish_consent(sealed, answer_of(request), self._origin + _CALLBACK)
        title = f"Your account at {html.escape(done.account.provider)} is connected"
        told = page(title, f"<p>It pays from your next message on. You can close this page.</p>{_TO_OVERVIEW}")
        return self._answers.end(told) if done.sealed is None else self._answers.keep(told, done.sealed)

    async def _visits(self) -> AccountPageVisits:
        return (await self._services_provider.services()).account_page_visits
