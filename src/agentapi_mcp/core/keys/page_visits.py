"""Visits of the pages: from the link through the sign-in to the stored key."""

import hmac
from dataclasses import dataclass

from pydantic import SecretStr

from agentapi_mcp.base.errors import NotAuthenticatedError, NotFoundError, PermissionDeniedError
from agentapi_mcp.core.access.models import AccountNames, LoginAnswer
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.access.principal_factory import Credential, member
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.key_requests import KeyRequests, PageRequests
from agentapi_mcp.core.keys.models import Visit

_NO_SIGN_IN = "Nobody can sign in here."


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
    provider: str
    names: AccountNames

    @property
    def form_token(self) -> str:
        """The token that the form must send back, against cross-site request forgery."""
        return self.visit.form_token or ""


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
        authenticator = self._require_authenticator()
        request = await self._requests.find(link_token)
        begun = await authenticator.begin_login(request.issuer, redirect_uri)
        return Redirect(begun.url, self._requests.seal(Visit(token_sha256=request.token_sha256, login=begun)))

    async def sign_in(self, sealed: str, answer: LoginAnswer, redirect_uri: str) -> str:
        """Complete the sign-in and return the encrypted visit with its form token.

        Raises:
            NotAuthenticatedError: the visitor did not sign in, or the callback belongs to another visit.
            PermissionDeniedError: they are not the user who asked for the page, or may not manage keys.
        """
        authenticator = self._require_authenticator()
        visit = self._requests.open_(sealed)
        if visit.login is None:
            raise NotAuthenticatedError("You did not come from the sign-in; open the link again.")
        visitor = await authenticator.finish_login(visit.login, answer, redirect_uri)
        try:
            admitted = await self._requests.admit(visit, visitor)
        except PermissionDeniedError as exc:
            await self._audit.denied(visitor, exc, AuditTarget("page", self.page))
            raise
        await self._audit.signed_in(visitor)
        return self._requests.seal(admitted)

    async def find(self, sealed: str) -> SignedInVisit:
        """Return an authenticated visit, with the current rights of its user.

        Raises:
            NotAuthenticatedError: the visit is not signed in, or expired.
            PermissionDeniedError: the user has left the organisation.
        """
        authenticator = self._require_authenticator()
        visit = self._requests.open_(sealed)
        if not visit.form_token:
            raise NotAuthenticatedError("You have not signed in yet; open the link again.")
        request = await self._requests.find_for(visit)
        # Read again for each request: the membership may have changed since the sign-in.
        membership = await self._profiles.find_membership(request.user_id, request.org_id)
        if membership is None:
            raise PermissionDeniedError("You are no member of this organisation any more.")
        principal = member(request.user_id, membership, authenticator.roles(), Credential(via=request.issuer))
        names = await self._profiles.find_names(request.user_id, request.org_id)
        return SignedInVisit(visit, principal, request.provider, names)

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

    async def save(self, found: SignedInVisit, form_token: str, key: SecretStr) -> None:
        """Store the entered key and consume the link.

        Raises:
            PermissionDeniedError: the form belongs to another visit, or the user may no longer manage keys.
            InvalidRequestError: it is not an API key; the link stays valid.
            NotFoundError: the link is used or expired.
        """
        if not hmac.compare_digest(form_token.encode(), found.form_token.encode()):
            raise PermissionDeniedError("This form is another visit's; open the link again.")
        await self._keys.save(found.visit, found.principal, key)
