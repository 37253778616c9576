"""The use cases that edges call, and the provider that opens them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# Type checkers take it for true: commands name the services in annotations, and load the use cases with the program.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from agentapi_mcp.core.access.members import Memberships
    from agentapi_mcp.core.access.personal_tokens import PersonalTokens
    from agentapi_mcp.core.access.ports import Authenticator
    from agentapi_mcp.core.accounts.accounts import Accounts
    from agentapi_mcp.core.accounts.page_visits import AccountPageVisits
    from agentapi_mcp.core.audit.log import AuditLog
    from agentapi_mcp.core.budgets.budgets import Budgets
    from agentapi_mcp.core.catalogue.agents import Agents
    from agentapi_mcp.core.catalogue.health import Health
    from agentapi_mcp.core.catalogue.means import Wallet
    from agentapi_mcp.core.catalogue.organizations import Organizations
    from agentapi_mcp.core.catalogue.terms import Terms
    from agentapi_mcp.core.catalogue.undeclared import UndeclaredAgents
    from agentapi_mcp.core.clients.elicitations import Elicitations
    from agentapi_mcp.core.clients.preferences import Clients
    from agentapi_mcp.core.clients.transport_sessions import TransportSessions
    from agentapi_mcp.core.conversations.change_feed import ChangeFeed
    from agentapi_mcp.core.conversations.facts import Facts
    from agentapi_mcp.core.conversations.sessions import Sessions
    from agentapi_mcp.core.conversations.tasks import Tasks
    from agentapi_mcp.core.conversations.turns import Turns
    from agentapi_mcp.core.identity.principals import Principal
    from agentapi_mcp.core.identity.shares import Shares
    from agentapi_mcp.core.keys.api_keys import ApiKeys
    from agentapi_mcp.core.keys.page_visits import KeyPageVisits
    from agentapi_mcp.core.usage.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases; `principal` is the local user, for edges without authentication.

    `authenticator` verifies access tokens of issuers; None if the server has no resource URL to issue them for.
    `reload` schedules a reload of the configuration without waiting for it.
    """

    principal: Principal
    authenticator: Authenticator | None
    personal_tokens: PersonalTokens
    turns: Turns
    tasks: Tasks
    sessions: Sessions
    facts: Facts
    agents: Agents
    undeclared_agents: UndeclaredAgents
    budgets: Budgets
    terms: Terms
    organizations: Organizations
    memberships: Memberships
    clients: Clients
    wallet: Wallet
    api_keys: ApiKeys
    accounts: Accounts
    key_page_visits: KeyPageVisits
    account_page_visits: AccountPageVisits
    health: Health
    usage: Usage
    audit: AuditLog
    transport_sessions: TransportSessions
    elicitations: Elicitations
    change_feed: ChangeFeed
    shares: Shares
    reload: Callable[[], None]


class ServicesProvider(Protocol):
    """Access to the services, which may still be starting."""

    def find(self) -> Services | None:
        """Return the services if they have started."""
        ...

    async def services(self) -> Services:
        """Wait for the services, with a timeout.

        Raises:
            StoreUnavailableError: they did not start; the message explains why and what to do.
            StoreMismatchError: the database schema does not match.
            ConfigurationError: the configuration is invalid.
        """
        ...
