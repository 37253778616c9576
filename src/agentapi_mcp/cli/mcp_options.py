"""What the settings say of the MCP edge, over whatever transport."""

from datetime import timedelta

from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.settings import VERSION, Settings


def mcp_options(settings: Settings) -> McpOptions:
    """Return how the edge is to behave."""
    wait = None if settings.wait_seconds is None else timedelta(seconds=settings.wait_seconds)
    return McpOptions(version=VERSION, default_wait=wait, toolsets=frozenset(settings.toolsets))
