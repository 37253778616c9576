"""Visits of the pages for accounts: the overview, and the way to one, from there or from a link."""

from dataclasses import dataclass, replace

from typing_extensions import override

from agentapi_mcp.base.errors import IssuerUnavailableError, NotAuthenticatedError, PermissionDeniedError
from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.accounts.accounts import Accounts
from agentapi_mcp.core.accounts.models import Account, AccountState
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.identity.principals import Action, require
from agentapi_mcp.core.keys.key_requests import PageRequests
from agentapi_mcp.core.keys.models import Visit
from agentapi_mcp.core.keys.page_visits import PageVisits, Redirect, RequestedVisit, SignedInVisit

OVERVIEW = "/accounts/"


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """A provider with the visitor's account there, if any; `is_declared` is false for one that left the file."""

    provider: str
    account: Account | None
    is_declared: bool

    @property
    def can_connect(self) -> bool:
        """Whether an account can be connected here that is not yet, or is revoked."""
        return self.is_declared and (self.account is None or self.account.state is not AccountState.CONNECTED)


@dataclass(frozen=True, slots=True)
class Connected:
    """A connected account, and the encrypted visit that goes on; None if it has ended with its link."""

    account: Account
    sealed: str | None


class AccountPageVisits(PageVisits):
    """Visits of the pages for accounts: the visitor signs in here, and to connect one consents at the provider.

    `page` is where a link leads, to connect one account; the visitors of the page at `OVERVIEW` need no link.
    """

    page = "/accounts/connect"

    def __init__(
        self,
        requests: PageRequests,
        accounts: Accounts,
        authenticator: Authenticator | None,
        profiles: ProfileStore,
        audit: AuditLog,
    ) -> None:
        super().__init__(requests, authenticator, profiles, audit)
        self._accounts = accounts

    def issuers(self) -> tuple[str, ...]:
        """List the issuers where visitors without a link can sign in.

        Raises:
            NotFoundError: sign-in is not configured.
        """
        authenticator = self._require_authenticator()
        return tuple(issuer for issuer in authenticator.issuers() if authenticator.can_log_in(issuer))

    def has_link(self, sealed: str) -> bool:
        """Return whether a link led to a visit, be it signed in or not."""
        try:
            visit = self._requests.open_(sealed)
        except NotAuthenticatedError:
            return False
        return bool(visit.token_sha256) and visit.visitor is None

    async def begin_at(self, issuer: str, redirect_uri: str, *, anew: bool = False) -> Redirect:
        """Redirect a visitor without a link to the sign-in; `anew` to come back as somebody else.

        Raises:
            NotAuthenticatedError: the issuer is unavailable, or nobody can sign in there.
        """
        begun = await self._require_authenticator().begin_login(issuer, redirect_uri, anew=anew)
        return Redirect(begun.url, self._requests.seal(Visit(login=begun)))

    async def find_visitor(self, sealed: str) -> SignedInVisit:
        """Return an authenticated visit that began without a link, with the current rights of its visitor.

        Raises:
            NotAuthenticatedError: the visit is not signed in, or expired, or began with a link.
            PermissionDeniedError: the visitor has left the organisation.
        """
        visit = self._signed_in(sealed)
        if visit.visitor is None:
            # A link signs its user in for what it asks for, and for nothing else.
            raise NotAuthenticatedError(f"You have not signed in on this page; {self._requests.again}.")
        return await self._with_rights(visit, visit.visitor)

    async def is_served(self, sealed: str) -> bool:
        """Return whether the page has something to show in a visit."""
        try:
            require((await self.find_visitor(sealed)).principal, Action.MANAGE_KEYS)
        except (NotAuthenticatedError, PermissionDeniedError):
            return False
        return True

    async def overview(self, found: SignedInVisit) -> tuple[OverviewRow, ...]:
        """List the providers of the file, then those that left it and still have an account of the visitor."""
        accounts = {account.provider: account for account in await self._accounts.list_(found.principal)}
        declared = [provider.name for provider in self._accounts.providers]
        names = dict.fromkeys((*declared, *accounts))
        return tuple(OverviewRow(name, accounts.get(name), name in declared) for name in names)

    def told(self, found: SignedInVisit) -> str:
        """Return the encrypted visit after its notices were shown."""
        return self._requests.seal(replace(found.visit, notices=()))

    async def disconnect(self, found: SignedInVisit, form_token: str, provider: str) -> Redirect:
        """Disconnect an account of the visitor, and redirect them to the page, which says what became of it.

        Raises:
            PermissionDeniedError: the form belongs to another visit, or the visitor may no longer manage keys.
            NotFoundError: the visitor has no account there.
            ConflictError: it is being renewed at this moment.
        """
        self._check_form(found.visit, form_token)
        done = await self._accounts.disconnect(found.principal, provider)
        return Redirect(OVERVIEW, self._requests.seal(replace(found.visit, notices=done.sentences)))

    async def begin_request(self, found: SignedInVisit, form_token: str, provider: str) -> Redirect:
        """Redirect a visitor to the page that connects an account, as a link to it would.

        Raises:
            PermissionDeniedError: the form belongs to another visit, or the visitor may no longer manage keys.
            NotFoundError: there is no such provider.
        """
        self._check_form(found.visit, form_token)
        declared = self._accounts.provider(provider)
        visit = await self._requests.serve(found.visit, found.principal, declared.name)
        return Redirect(self.page, self._requests.seal(visit))

    async def begin_consent(self, found: RequestedVisit, redirect_uri: str) -> Redirect:
        """Return where a visitor consents at the provider, and the visit that waits for the answer.

        Raises:
            IssuerUnavailableError: the provider cannot be reached.
        """
        begun = await self._accounts.begin(found.principal, found.provider, redirect_uri)
        return Redirect(begun.url, self._requests.seal(replace(found.visit, connecting=begun)))

    async def finish_consent(self, sealed: str, answer: LoginAnswer, redirect_uri: str) -> Connected:
        """Connect the account of a visitor who comes back from the provider, and consume the request.

        Raises:
            NotAuthenticatedError: consent was denied, or the callback belongs to another visit.
            PermissionDeniedError: the user has left the organisation, or may not manage keys.
            NotFoundError: the request is used or expired.
        """
        found = await self.find(sealed)
        begun = found.visit.connecting
        if begun is None:
            raise NotAuthenticatedError(f"You did not come from the provider; {self._requests.again}.")
        # Consumed before the exchange: of two callbacks with the same answer only one gets so far.
        await self._requests.consume(found.visit, found.principal)
        try:
            account = await self._accounts.finish(found.principal, found.provider, begun, answer, redirect_uri)
        except (NotAuthenticatedError, IssuerUnavailableError):
            # A forged callback, a change of mind or an outage must not cost the user the link.
            await self._requests.restore(found.visit, found.principal)
            raise
        if found.visit.visitor is None:
            return Connected(account, None)
        return Connected(account, self._requests.seal(replace(found.visit, connecting=None)))

    @override
    def landing(self, visit: Visit) -> str:
        return self.page if visit.token_sha256 else OVERVIEW
