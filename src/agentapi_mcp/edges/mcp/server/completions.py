"""Completions of sessions by title, and of agents by name."""

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    PromptReference,
)

from agentapi_mcp.core.catalogue.models import Preferences
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.edges.mcp.callers import Caller, Callers, Context, preferences_of
from agentapi_mcp.edges.mcp.server.prompts import check_prompt
from agentapi_mcp.edges.mcp.server.resources import TEMPLATE_URIS
from agentapi_mcp.presentation.text import clean, shown

_MOST = 100  # the protocol's limit
_LONGEST = 200


class Completions:
    """Completes the arguments of prompts and resource templates."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def complete(self, context: Context, params: CompleteRequestParams) -> CompleteResult:
        """Return the values for an argument; none for an unknown argument."""
        if isinstance(params.ref, PromptReference):
            check_prompt(params.ref.name)
        elif params.ref.uri not in TEMPLATE_URIS:
            raise MCPError(INVALID_PARAMS, f"There is no resource template {shown(params.ref.uri)!r}.")
        typed = clean(params.argument.value).strip()[:_LONGEST].replace("\0", "")
        match params.argument.name:
            case "session_id":
                values, more = await _sessions(await self._callers.identify(context), typed)
            case "agent":
                caller = await self._callers.identify(context)
                values, more = await _agents(caller, await preferences_of(caller, context), typed)
            case _:
                values, more = [], False
        return CompleteResult(completion=Completion(values=values[:_MOST], has_more=more))


async def _sessions(caller: Caller, typed: str) -> tuple[list[str], bool]:
    """Find sessions by a part of their title or opening, otherwise by a prefix of their id."""
    sessions = caller.services.sessions
    page = await sessions.list_(caller.principal, query=typed or None, limit=_MOST)
    found: tuple[Session, ...] = page.items
    if not found:
        page = await sessions.list_(caller.principal, limit=_MOST)
        found = tuple(session for session in page.items if str(session.id).startswith(typed.lower()))
    return [str(session.id) for session in found], page.next_cursor is not None


async def _agents(caller: Caller, preferences: Preferences, typed: str) -> tuple[list[str], bool]:
    """Find agents by the beginning of their name, among all of them."""
    agents, names, cursor = caller.services.agents, list[str](), None
    while True:
        page = await agents.list_(
            caller.principal, query=typed or None, cursor=cursor, limit=_MOST, preferences=preferences
        )
        names += [agent.name for agent in page.items if agent.name.lower().startswith(typed.lower())]
        cursor = page.next_cursor
        if cursor is None or len(names) >= _MOST:
            return names, cursor is not None or len(names) > _MOST
