"""URL elicitation of a missing key or account: the user brings it on a page, so that the model never sees it."""

import logging
from uuid import uuid4

from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import CallToolRequestParams, ElicitRequest, ElicitRequestURLParams, InputRequiredResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from agentapi_mcp.base.errors import AccountNeededError, AgentApiError, BackendError
from agentapi_mcp.edges.mcp.callers import Callers, Context

_NAME = "api_key"
_log = logging.getLogger(__name__)


class KeyElicitation:
    """Elicits a key or an account from clients that support URL mode, each in the way of its protocol version."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def elicit(
        self, context: Context, params: CallToolRequestParams, error: AgentApiError
    ) -> InputRequiredResult | None:
        """Request the key or account that a call lacked; None if the client was asked already, or does not support it.

        To a client that does not, the error tells the address in words. The link alone opens nothing: whoever visits
        the page signs in.

        Raises:
            UrlElicitationRequiredError: the request, for a 2025-era client.
        """
        if not isinstance(error, BackendError) or params.input_responses is not None:
            return None
        url = await self._address(context, error)
        if url is None:
            return None
        if not _opens_addresses(context):
            is_account = isinstance(error, AccountNeededError)
            what, otherwise = ("connects the account", "") if is_account else ("enters a key", f" {error.next_step}")
            error.next_step = (
                f"The user {what} at {url} (valid for 15 minutes); then send the message again.{otherwise}"
            )
            return None
        if isinstance(error, AccountNeededError):
            message = f"This agent needs an account of yours at {error.provider}. You connect it on this server's page."
            what = "Connect the account"
        else:
            provider = error.lacks_key_of
            message = f"This agent needs an API key of yours for {provider}. You enter it on this server's own page."
            what = "Enter a key"
        if context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
            elicitation = ElicitRequestURLParams(message=message, url=url, elicitation_id=str(uuid4()))
            raise UrlElicitationRequiredError([elicitation], f"{error} {what} at the address, then send it again.")
        return InputRequiredResult(
            input_requests={_NAME: ElicitRequest(params=ElicitRequestURLParams(message=message, url=url))}
        )

    async def _address(self, context: Context, error: BackendError) -> str | None:
        is_account = isinstance(error, AccountNeededError)
        provider = error.provider if is_account else error.lacks_key_of
        if provider is None:
            return None
        try:
            caller = await self._callers.identify(context)
            services = caller.services
            visits = services.account_page_visits if is_account else services.key_page_visits
            return await visits.invite(caller.principal, provider)
        except AgentApiError as exc:  # the caller receives the error that led here
            _log.warning("key_not_asked_for", extra={"code": exc.code})
            return None


def _opens_addresses(context: Context) -> bool:
    declared = context.session.client_capabilities
    return declared is not None and declared.elicitation is not None and declared.elicitation.url is not None
