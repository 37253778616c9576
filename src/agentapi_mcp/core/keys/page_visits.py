"""Visits of the pages: from the link through the sign-in to the stored key."""

import hmac
from dataclasses import dataclass, replace

from pydantic import SecretStr

from agentapi_mcp.base.errors import NotAuthenticatedError, NotFoundError, PermissionDeniedError
from agentapi_mcp.core.access.models import AccountNames, LoginAnswer
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.access.principal_factory import Credential, member
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.key_requests import KeyRequests, PageRequests
from agentapi_mcp.core.keys.models import KeyRequest, Visit, Visitor

_NO_SIGN_IN = "Nobody can sign in here."
_SAVED = ("It is used from your next message on.", "You can close this page.")


@dataclass(frozen=True, slots=True)
class Redirect:
    """The URL to redirect a browser to, and the encrypted visit to set as its cookie."""

    url: str
    sealed: str


@dataclass(frozen=True, slots=True)
class SignedInVisit:
    """An authenticated visit, with the current rights of its user."""

    visit: Visit
    principal: Principal
    names: AccountNames

    @property
    def form_token(self) -> str:
        """The token that each form must send back, against cross-site request forgery."""
        return self.visit.form_token or ""


@dataclass(frozen=True, slots=True)
class RequestedVisit(SignedInVisit):
    """An authenticated visit that serves a request for a key or an account of this provider."""

    provider: str


class PageVisits:
    """Steps of a page visit; stateless, each takes the encrypted visit of the step before it.

    `page` is the path of the page that the sign-in leads to.
    """

    page = "/"

    def __init__(
        self, requests: PageRequests, authenticator: Authenticator | None, profiles: ProfileStore, audit: AuditLog
    ) -> None:
        self._requests = requests
        self._authenticator = authenticator
        self._profiles = profiles
        self._audit = audit

    async def invite(self, principal: Principal, provider: str) -> str | None:
        """Create a link to the page for the principal; None if they cannot use it."""
        if self._authenticator is None:
            return None
        return await self._requests.create(principal, provider, self._authenticator.can_log_in)

    async def begin(self, link_token: str, redirect_uri: str) -> Redirect:
        """Redirect the visitor who opened a link to the sign-in.

        Raises:
            NotFoundError: the link is used, expired or unknown, or sign-in is not configured.
            NotAuthenticatedError: the issuer is unavailable.
        """
        self._require_authenticator()
        return await self._begin(await self._requests.find(link_token), redirect_uri)

    async def begin_anew(self, sealed: str, redirect_uri: str) -> Redirect:
        """Redirect a visitor whom a link led here to the sign-in again, to come back as somebody else.

        Raises:
            NotFoundError: the link is used or expired, or led to no visit.
            NotAuthenticatedError: the visit is expired, or the issuer is unavailable.
        """
        self._require_authenticator()
        request = await self._requests.find_for(self._requests.open_(sealed))
        return await self._begin(request, redirect_uri, anew=True)

    async def sign_in(self, sealed: str, answer: LoginAnswer, redirect_uri: str) -> Redirect:
        """Complete the sign-in, and redirect the visitor to the page, with the form token in the visit.

        Raises:
            NotAuthenticatedError: the visitor did not sign in, or the callback belongs to another visit.
            PermissionDeniedError: they are not the user who asked for the page, or may not manage keys.
        """
        authenticator = self._require_authenticator()
        visit = self._requests.open_(sealed)
        if visit.login is None:
            raise NotAuthenticatedError(f"You did not come from the sign-in; {self._requests.again}.")
        done = await authenticator.finish_login(visit.login, answer, redirect_uri)
        visitor = done.principal
        try:
            admitted = await self._requests.admit(visit, visitor)
        except PermissionDeniedError as exc:
            await self._audit.denied(visitor, exc, AuditTarget("page", self.landing(visit)))
            raise
        await self._audit.signed_in(visitor)
        return Redirect(self.landing(visit), self._requests.seal(replace(admitted, subject=done.subject)))

    async def find(self, sealed: str) -> RequestedVisit:
        """Return an authenticated visit that serves a request, with the current rights of its user.

        Raises:
            NotAuthenticatedError: the visit is not signed in, or expired.
            PermissionDeniedError: the user has left the organisation.
            NotFoundError: the request is used or expired.
        """
        visit = self._signed_in(sealed)
        request = await self._requests.find_for(visit)
        found = await self._with_rights(visit, request.visitor)
        return RequestedVisit(visit, found.principal, found.names, request.provider)

    def sign_out(self, sealed: str, form_token: str) -> None:
        """Verify that a visitor wants to end their visit, which their browser does by forgetting it.

        Raises:
            NotAuthenticatedError: the visit is not signed in, or has ended.
            PermissionDeniedError: the form belongs to another visit.
        """
        self._check_form(self._signed_in(sealed), form_token)

    def landing(self, _visit: Visit) -> str:
        """Return the path of the page that the sign-in of a visit leads to."""
        return self.page

    async def _begin(self, request: KeyRequest, redirect_uri: str, *, anew: bool = False) -> Redirect:
        begun = await self._require_authenticator().begin_login(request.issuer, redirect_uri, anew=anew)
        return Redirect(begun.url, self._requests.seal(Visit(token_sha256=request.token_sha256, login=begun)))

    def _signed_in(self, sealed: str) -> Visit:
        self._require_authenticator()
        visit = self._requests.open_(sealed)
        if not visit.form_token:
            raise NotAuthenticatedError(f"You have not signed in yet; {self._requests.again}.")
        return visit

    async def _with_rights(self, visit: Visit, visitor: Visitor) -> SignedInVisit:
        """Return the visit with the rights of its visitor, read again for each request.

        Identity, membership, role and the operator's file may have changed since the sign-in.
        """
        authenticator = self._require_authenticator()
        if not authenticator.can_log_in(visitor.issuer):
            raise NotAuthenticatedError("Nobody can sign in here any more as you did.")
        if not await authenticator.is_linked(visitor.issuer, visit.subject, visitor.user_id):
            raise NotAuthenticatedError(f"Your sign-in does not lead to this account any more; {self._requests.again}.")
        membership = await self._profiles.find_membership(visitor.user_id, visitor.org_id)
        if membership is None:
            raise PermissionDeniedError("You are no member of this organisation any more.")
        principal = member(visitor.user_id, membership, authenticator.roles(), Credential(via=visitor.issuer))
        return SignedInVisit(visit, principal, await self._profiles.find_names(visitor.user_id, visitor.org_id))

    def _check_form(self, visit: Visit, form_token: str) -> None:
        """Verify that a form is of this visit.

        Raises:
            PermissionDeniedError: it is of another, or of no page of ours.
        """
        if not hmac.compare_digest(form_token.encode(), (visit.form_token or "").encode()):
            raise PermissionDeniedError(f"This form is another visit's; {self._requests.again}.")

    def _require_authenticator(self) -> Authenticator:
        if self._authenticator is None:
            raise NotFoundError(_NO_SIGN_IN)
        return self._authenticator


class KeyPageVisits(PageVisits):
    """Visits of the page where a key is entered."""

    page = "/keys/enter"

    def __init__(
        self, requests: KeyRequests, authenticator: Authenticator | None, profiles: ProfileStore, audit: AuditLog
    ) -> None:
        super().__init__(requests, authenticator, profiles, audit)
        self._keys = requests

    def farewell(self, sealed: str) -> tuple[str, ...]:
        """Return what the page says at the end of a visit; nothing if the visit goes on.

        Raises:
            NotAuthenticatedError: the visit is expired, or none of ours.
        """
        return self._requests.open_(sealed).notices

    async def save(self, found: RequestedVisit, form_token: str, key: SecretStr) -> Redirect:
        """Store the entered key, consume the link, and redirect the visitor to the end of the visit.

        Raises:
            PermissionDeniedError: the form belongs to another visit, or the user may no longer manage keys.
            InvalidRequestError: it is not an API key; the link stays valid.
            NotFoundError: the link is used or expired.
        """
        self._check_form(found.visit, form_token)
        await self._keys.save(found.visit, found.principal, key)
        return Redirect(self.page, self._requests.seal(Visit(notices=_SAVED)))
