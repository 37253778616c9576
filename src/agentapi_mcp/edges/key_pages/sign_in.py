"""The first steps of a visit, which are those of every page: from the link to the login, and back from there."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.keys.page_visits import PageVisits
from agentapi_mcp.edges.key_pages.answers import PageAnswers


class SignInSteps:
    """The login below `/FOLDER/` of a server at this origin, which leads to the page, and comes back to `back_uri`."""

    def __init__(
        self, answers: PageAnswers, origin: str, folder: str, visits: Callable[[], Awaitable[PageVisits]]
    ) -> None:
        self._answers = answers
        self._visits = visits
        back = f"/{folder}/signed-in"
        self.back_uri = origin + back
        self.routes = [
            Route(f"/{folder}/new", answers.guarded(self._begin), methods=["GET"]),
            Route(back, answers.guarded(self._admit), methods=["GET"]),
        ]

    async def _begin(self, request: Request) -> Response:
        """Redirect the visitor who opened the link to the login."""
        visits = await self._visits()
        redirect = await visits.begin(request.query_params.get("request", ""), self.back_uri)
        return self._answers.redirect(redirect.url, redirect.sealed)

    async def _admit(self, request: Request) -> Response:
        """Complete the login of a visitor who returns from the issuer."""
        visits, sealed = await self._visits(), self._answers.sealed(request)
        admitted = await visits.sign_in(sealed, answer_of(request), self.back_uri)
        return self._answers.redirect(admitted.url, admitted.sealed)


def answer_of(request: Request) -> LoginAnswer:
    """Read the parameters of a callback."""
    query = request.query_params
    return LoginAnswer(
        state=query.get("state"), code=query.get("code"), issuer=query.get("iss"), error=query.get("error")
    )
