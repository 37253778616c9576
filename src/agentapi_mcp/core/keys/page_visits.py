"""The visits of the page where a user enters an API key: from the link over the sign-in to the stored key."""

import hmac
from dataclasses import dataclass

from pydantic import SecretStr

from agentapi_mcp.base.errors import NotAuthenticatedError, NotFoundError, PermissionDeniedError
from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.access.principal_factory import Credential, member
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditTarget
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.key_requests import KeyRequests
from agentapi_mcp.core.keys.models import Visit

_NO_SIGN_IN = "Nobody can sign in here."


@dataclass(frozen=True, slots=True)
class Redirect:
    """Where a browser goes next, and the sealed visit that it keeps as a cookie."""

    url: str
    sealed: str


@dataclass(frozen=True, slots=True)
class SignedInVisit:
    """A visit by the user who asked for the page, with the rights that they have now."""

    visit: Visit
    principal: Principal
    provider: str

    @property
    def form_token(self) -> str:
        """What the form of this visit carries, so that no other site's form is taken for it (CSRF)."""
        return self.visit.form_token or ""


class KeyPageVisits:
    """Each step takes the sealed visit that the one before it gave; nothing is kept here between them."""

    def __init__(
        self, entries: KeyRequests, door: Authenticator | None, profiles: ProfileStore, audit: AuditLog
    ) -> None:
        self._entries = entries
        self._door = door
        self._profiles = profiles
        self._audit = audit

    async def invite(self, principal: Principal, provider: str) -> str | None:
        """Return the address of a page where the principal can enter a key; None where there is none for them."""
        if self._door is None:
            return None
        return await self._entries.ask(principal, provider, self._door.can_log_in)

    async def begin(self, link_token: str, redirect_uri: str) -> Redirect:
        """Send the visitor who opened a link to sign in.

        Raises:
            NotFoundError: the link is used, expired or unknown, or nobody can sign in here.
            NotAuthenticatedError: the issuer cannot be asked.
        """
        door = self._sign_in()
        asked = await self._entries.find(link_token)
        begun = await door.begin_login(asked.issuer, redirect_uri)
        return Redirect(begun.url, self._entries.seal(Visit(token_sha256=asked.token_sha256, login=begun)))

    async def sign_in(self, sealed: str, answer: LoginAnswer, redirect_uri: str) -> str:
        """Admit the visitor whom the issuer sends back, and return the visit sealed anew.

        Raises:
            NotAuthenticatedError: they did not sign in, or not from this visit.
            PermissionDeniedError: they are not the user who asked for the page, or may not manage keys.
        """
        door = self._sign_in()
        visit = self._entries.open_(sealed)
        if visit.login is None:
            raise NotAuthenticatedError("You did not come from the sign-in; open the link again.")
        visitor = await door.finish_login(visit.login, answer, redirect_uri)
        try:
            admitted = await self._entries.admit(visit, visitor)
        except PermissionDeniedError as exc:
            await self._audit.denied(visitor, exc, AuditTarget("page", "/keys/enter"))
            raise
        await self._audit.signed_in(visitor)
        return self._entries.seal(admitted)

    async def find(self, sealed: str) -> SignedInVisit:
        """Find a visit that has signed in, with the rights of its user as they are in their organisation now.

        Raises:
            NotAuthenticatedError: the visit has not signed in, or is too old.
            PermissionDeniedError: the user has left the organisation.
        """
        door = self._sign_in()
        visit = self._entries.open_(sealed)
        if not visit.form_token:
            raise NotAuthenticatedError("You have not signed in yet; open the link again.")
        asked = await self._entries.visited(visit)
        membership = await self._profiles.find_membership(asked.user_id, asked.org_id)
        if membership is None:
            raise PermissionDeniedError("You are no member of this organisation any more.")
        principal = member(asked.user_id, membership, door.roles(), Credential(via=asked.issuer))
        return SignedInVisit(visit, principal, asked.provider)

    async def save(self, found: SignedInVisit, form_token: str, key: SecretStr) -> None:
        """Store the key that was entered; the link is used up.

        Raises:
            PermissionDeniedError: the form is another visit's, or the user may not manage keys any more.
            InvalidRequestError: it is no key; then the link can still be used.
            NotFoundError: the link was used up before, or is too old.
        """
        if not hmac.compare_digest(form_token.encode(), found.form_token.encode()):
            raise PermissionDeniedError("This form is another visit's; open the link again.")
        await self._entries.save(found.visit, found.principal, key)

    def _sign_in(self) -> Authenticator:
        if self._door is None:
            raise NotFoundError(_NO_SIGN_IN)
        return self._door
