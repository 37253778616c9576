"""Visits of the page for accounts: from the link through both sign-ins to the connected account."""

from agentapi_mcp.base.errors import IssuerUnavailableError, NotAuthenticatedError
from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.accounts.accounts import Accounts
from agentapi_mcp.core.accounts.models import Account
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.keys.key_requests import PageRequests
from agentapi_mcp.core.keys.models import Visit
from agentapi_mcp.core.keys.page_visits import PageVisits, Redirect, SignedInVisit


class AccountPageVisits(PageVisits):
    """Visits of the page where an account is connected: the visitor signs in here, then consents at the provider."""

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

    async def begin_consent(self, found: SignedInVisit, redirect_uri: str) -> Redirect:
        """Return where a visitor consents at the provider, and the visit that waits for the answer.

        Raises:
            IssuerUnavailableError: the provider cannot be reached.
        """
        begun = await self._accounts.begin(found.principal, found.provider, redirect_uri)
        visit = Visit(
            token_sha256=found.visit.token_sha256, form_token=found.visit.form_token or None, connecting=begun
        )
        return Redirect(begun.url, self._requests.seal(visit))

    async def finish_consent(self, sealed: str, answer: LoginAnswer, redirect_uri: str) -> Account:
        """Connect the account of a visitor who comes back from the provider, and consume the link.

        Raises:
            NotAuthenticatedError: consent was denied, or the callback belongs to another visit.
            PermissionDeniedError: the user has left the organisation, or may not manage keys.
            NotFoundError: the link is used or expired.
        """
        found = await self.find(sealed)
        begun = found.visit.connecting
        if begun is None:
            raise NotAuthenticatedError("You did not come from the provider; open the link again.")
        # Consumed before the exchange: of two callbacks with the same answer only one gets so far.
        await self._requests.consume(found.visit, found.principal)
        try:
            return await self._accounts.finish(found.principal, found.provider, begun, answer, redirect_uri)
        except (NotAuthenticatedError, IssuerUnavailableError):
            # A forged callback, a change of mind or an outage must not cost the user the link.
            await self._requests.restore(found.visit, found.principal)
            raise
