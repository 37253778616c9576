"""The page where a user connects an account, after login: one link to the provider, and the way back from there."""

import html

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentapi_mcp.core.accounts.page_visits import AccountPageVisits
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.key_pages.answers import PageAnswers, page, shown
from agentapi_mcp.edges.key_pages.sign_in import SignInSteps, answer_of

_CALLBACK = "/accounts/callback"
# A link, no form: browsers apply `form-action` to the redirect of a form as well, which leads to the provider.
_OFFER = (
    "<p>For the account {account} in the organisation {organization}.</p>"
    "<p>What {provider} gives out for it is kept sealed, and pays for your own messages in place of the server's. "
    'Nobody can read it again.</p><p><a href="{url}">Go to {provider}</a></p>'
)


class AccountPages:
    """The account pages of a server at this origin."""

    def __init__(self, services_provider: ServicesProvider, origin: str) -> None:
        self._services_provider = services_provider
        self._origin = origin
        self._answers = answers = PageAnswers(origin, "agentapi-accounts")
        self.routes = [
            *SignInSteps(answers, origin, "accounts", self._visits).routes,
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
            account=shown(visit.names.account or str(visit.principal.user_id)),
            organization=shown(visit.names.organization or str(visit.principal.org_id)),
            provider=provider,
            url=html.escape(redirect.url),
        )
        return self._answers.keep(page(f"Connect your account at {provider}", body), redirect.sealed)

    async def _finish(self, request: Request) -> Response:
        """Connect the account of a visitor who returns from the provider."""
        visits, sealed = await self._visits(), self._answers.sealed(request)
        account = await visits.finish_consent(sealed, answer_of(request), self._origin + _CALLBACK)
        title = f"Your account at {html.escape(account.provider)} is connected"
        return self._answers.end(page(title, "<p>It pays from your next message on. You can close this page.</p>"))

    async def _visits(self) -> AccountPageVisits:
        return (await self._services_provider.services()).account_page_visits
