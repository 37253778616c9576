"""What is now said of a session, as commands that changed it print it."""

from __future__ import annotations

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.outputs import print_json
from agentapi_mcp.cli.terminal import print_err

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.conversations.models import Session
    from agentapi_mcp.presentation import facts, sessions
else:
    facts = LazyModule("agentapi_mcp.presentation.facts")
    sessions = LazyModule("agentapi_mcp.presentation.sessions")


def print_said(session: Session, *, as_json: bool) -> None:
    """Print it, as the tool `list_sessions` has it where JSON is wanted."""
    out = sessions.session_out(session)
    if as_json:
        print_json(out.model_dump(mode="json"))
    else:
        print_err(facts.session_said(out))
