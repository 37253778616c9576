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
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.usage.periods import PERIODS
from agentapi_mcp.edges.mcp.callers import Caller, Callers, Context, preferences_of
from agentapi_mcp.edges.mcp.server.matching import ranked
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
            case "period":
                values, more = [name for name in PERIODS if name.startswith(typed.lower())], False
            case _:
                values, more = [], False
        return CompleteResult(completion=Completion(values=values[:_MOST], has_more=more))


async def _sessions(caller: Caller, typed: str) -> tuple[list[str], bool]:
    """Find sessions by a part of their title or opening, otherwise among the newest by their id, or with a typo."""
    sessions = caller.services.sessions
    page = await sessions.list_(caller.principal, SessionFilter(query=typed or None), limit=_MOST)
    found = list(page.items)
    if found:
        # Those that match by their opening alone come last.
        by_title = ranked(typed, ((session, session.title or "") for session in found))
        found = [*by_title, *(session for session in found if session not in by_title)]
    else:
        page = await sessions.list_(caller.principal, limit=_MOST)
        by_id = [session for session in page.items if str(session.id).startswith(typed.lower())]
        found = by_id or ranked(typed, ((session, session.title or "") for session in page.items))
    return [str(session.id) for session in found], page.next_cursor is not None


async def _agents(caller: Caller, preferences: Preferences, typed: str) -> tuple[list[str], bool]:
    """Find agents by their name, among all of them."""
    names = await caller.services.agents.names(caller.principal, preferences)
    found = ranked(typed, ((name, name) for name in names))
    return found, len(found) > _MOST
