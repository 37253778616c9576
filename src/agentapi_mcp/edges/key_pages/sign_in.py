"""The first steps of a visit and its end, which are those of every page: to the login, back, and the sign-out."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.keys.page_visits import PageVisits
from agentapi_mcp.edges.key_pages.answers import PageAnswers, page, redirect_to
from agentapi_mcp.edges.key_pages.forms import own_form

_SIGNED_OUT = (
    "<p>This browser is in no visit of yours any more. Where you signed in may still know you: on a computer that "
    "others use, sign out there, too.</p>"
)


class SignInSteps:
    """The login below `/FOLDER/` of a server at this origin, which leads to the page, and comes back to `back_uri`.

    `again` is HTML that says after a sign-out how to sign in again.
    """

    def __init__(
        self,
        answers: PageAnswers,
        origin: str,
        folder: str,
        visits: Callable[[], Awaitable[PageVisits]],
        again: str = "",
    ) -> None:
        self._answers = answers
        self._origin = origin
        self._visits = visits
        self._again = again
        self._signed_out = f"/{folder}/signed-out"
        back = f"/{folder}/signed-in"
        self.back_uri = origin + back
        self.routes = [
            Route(f"/{folder}/new", answers.guarded(self._begin), methods=["GET"]),
            Route(back, answers.guarded(self._admit), methods=["GET"]),
            Route(f"/{folder}/sign-out", answers.guarded(self._sign_out), methods=["POST"]),
            Route(self._signed_out, answers.guarded(self._say_signed_out), methods=["GET"]),
        ]

    async def _begin(self, request: Request) -> Response:
        """Redirect the visitor who opened the link to the login."""
        visits = await self._visits()
        redirect = await visits.begin(request.query_params.get("request", ""), self.back_uri)
        return self._answers.redirect(redirect.url, redirect.sealed)

    async def begin_anew(self, request: Request) -> Response:
        """Redirect a visitor whom a link led here to the login, to come back as somebody else."""
        visits = await self._visits()
        redirect = await visits.begin_anew(self._answers.sealed(request), self.back_uri)
        return self._answers.redirect(redirect.url, redirect.sealed)

    async def _sign_out(self, request: Request) -> Response:
        """End the visit."""
        form, visits = await own_form(request, self._origin), await self._visits()
        visits.sign_out(self._answers.sealed(request), form.get("form_token", ""))
        return self._answers.end(redirect_to(self._signed_out))

    async def _say_signed_out(self, request: Request) -> Response:
        """Say that the visit has ended, to a browser that is in none."""
        if self._answers.sealed(request):
            raise NotFoundError("You are not signed out.")
        return page("You are signed out", _SIGNED_OUT + self._again)

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
