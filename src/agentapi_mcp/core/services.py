"""What an edge is given: the use cases, once the stores are there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agentapi_mcp.core.agents import Agents
from agentapi_mcp.core.api_keys import ApiKeys
from agentapi_mcp.core.audit import Audit
from agentapi_mcp.core.change_feed import ChangeFeed
from agentapi_mcp.core.clients import Clients
from agentapi_mcp.core.elicitations import Elicitations
from agentapi_mcp.core.health import Health
from agentapi_mcp.core.identity import Principal, Role
from agentapi_mcp.core.key_entries import KeyEntries
from agentapi_mcp.core.members import Memberships
from agentapi_mcp.core.organizations import Organizations
from agentapi_mcp.core.personal_tokens import PersonalTokens
from agentapi_mcp.core.records.identities import SignInRules
from agentapi_mcp.core.records.logins import LoginAnswer, LoginBegun
from agentapi_mcp.core.sessions import Sessions
from agentapi_mcp.core.store_ports import ProfileStore
from agentapi_mcp.core.transport_sessions import TransportSessions
from agentapi_mcp.core.turns import Turns


class Door(Protocol):
    """Whom access tokens let in."""

    def issuers(self) -> tuple[str, ...]:
        """List the authorization servers whose tokens are taken."""
        ...

    async def authenticate(self, token: str) -> Principal:
        """Tell whom a token lets in.

        Raises:
            NotAuthenticatedError: it is none for this server.
            PermissionDeniedError: its owner has no account or organisation here.
        """
        ...

    def roles(self) -> Mapping[str, Role]:
        """Tell what other words for roles mean in this database."""
        ...

    def can_log_in(self, issuer: str) -> bool:
        """Tell whether pages of ours can sign a visitor in at this issuer."""
        ...

    async def begin_login(self, issuer: str, redirect_uri: str) -> LoginBegun:
        """Return where to send a visitor to sign in.

        Raises:
            NotAuthenticatedError: the issuer cannot be asked, or not by us.
        """
        ...

    async def finish_login(self, begun: LoginBegun, answer: LoginAnswer, redirect_uri: str) -> Principal:
        """Tell who came back.

        Raises:
            NotAuthenticatedError: they did not sign in, or came back with what was not asked for.
            PermissionDeniedError: they have no account or organisation here.
        """
        ...

    async def take(self, rules: SignInRules) -> None:
        """Go by these rules from now on, and by no others."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases; `principal` is the local user, for edges that have nobody else.

    `door` tells whom issuers' access tokens let in, None where there is no address for which they could be made.
    `reload` lets the configuration be read again, soon and without an answer.
    """

    principal: Principal
    door: Door | None
    personal_tokens: PersonalTokens
    turns: Turns
    sessions: Sessions
    agents: Agents
    organizations: Organizations
    memberships: Memberships
    clients: Clients
    api_keys: ApiKeys
    key_entries: KeyEntries
    health: Health
    audit: Audit
    profiles: ProfileStore
    transport_sessions: TransportSessions
    elicitations: Elicitations
    change_feed: ChangeFeed
    reload: Callable[[], None]


class Gate(Protocol):
    """The way to the services, which may not be up yet."""

    def find(self) -> Services | None:
        """Return the services if they are up now."""
        ...

    async def services(self) -> Services:
        """Wait for the services within bounds.

        Raises:
            StoreUnavailableError: they do not come up; the message says why and what to do.
            StoreMismatchError: the database is of another shape.
            ConfigurationError: the configuration is wrong.
        """
        ...
