"""Agents that earlier configurations, or other programs, left in the database."""

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.base.text import listed
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditDetails, AuditTarget
from agentapi_mcp.core.catalogue.catalogue import Catalogue, shown_name
from agentapi_mcp.core.catalogue.models import AgentRow
from agentapi_mcp.core.identity.principals import Principal


class UndeclaredAgents:
    """The rows of agents that this process's configuration file does not declare; for operators alone."""

    def __init__(self, catalogue: Catalogue, audit: AuditLog) -> None:
        self._catalogue = catalogue
        self._audit = audit

    async def list_(self) -> tuple[AgentRow, ...]:
        """List them by name, without those that were removed."""
        return tuple(row for row in await self._catalogue.undeclared() if not row.removed)

    async def remove(self, operator: Principal, name: str) -> None:
        """Take one out of all lists; whatever refers to it stays, and a file that declares it brings it back.

        Raises:
            InvalidRequestError: the file declares it, or it stands for an agent that the file declares.
            NotFoundError: there is none.
        """
        rows = await self.list_()
        row = next((row for row in rows if row.name == name), None)
        if row is not None:
            target, details = AuditTarget("agent", str(row.id)), AuditDetails(agent=name)
            event = self._audit.event(operator, AuditAction.AGENT_REMOVED, target=target, details=details)
            await self._catalogue.remove(row, event)
            return
        declared = await self._catalogue.declared_names()
        if name in declared:
            raise InvalidRequestError(
                f"The agent {name} stands for an agent of the configuration file, by a row that another program wrote "
                "to the table agents: that program takes it back."
            )
        raise NotFoundError(
            f"There is no agent {shown_name(name)}. The configuration file declares: {listed(declared)}; no file "
            f"declares, but the database knows: {listed([row.name for row in rows])}."
        )
