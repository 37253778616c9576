"""What is now said of a session, as commands that changed it print it."""

from importlib import import_module

from agentapi_mcp.cli.outputs import print_json
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.conversations.models import Session


def print_said(session: Session, *, as_json: bool) -> None:
    """Print it, as the tool `list_sessions` has it where JSON is wanted."""
    # Slow to import, and the help needs neither.
    out = import_module("agentapi_mcp.presentation.sessions").session_out(session)
    if as_json:
        print_json(out.model_dump(mode="json"))
    else:
        print_err(import_module("agentapi_mcp.presentation.facts").session_said(out))
