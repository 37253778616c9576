"""Options of the MCP edge, for every transport."""

from datetime import timedelta

from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.settings import VERSION, Settings


def mcp_options(settings: Settings) -> McpOptions:
    """Derive the options of the MCP edge from the settings."""
    wait = None if settings.wait_seconds is None else timedelta(seconds=settings.wait_seconds)
    return McpOptions(version=VERSION, default_wait=wait, toolsets=frozenset(settings.toolsets))
