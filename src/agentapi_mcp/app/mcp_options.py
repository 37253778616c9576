"""Options of the MCP edge, for every transport."""

from collections.abc import Mapping
from datetime import timedelta

from agentapi_mcp.core.access.models import SignInRules
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.settings import VERSION, Settings

Extensions = dict[str, dict[str, object]]
_CLIENT_CREDENTIALS = "io.modelcontextprotocol/oauth-client-credentials"


def mcp_options(settings: Settings, extensions: Mapping[str, dict[str, object]] | None = None) -> McpOptions:
    """Derive the options of the MCP edge from the settings."""
    wait = None if settings.wait_seconds is None else timedelta(seconds=settings.wait_seconds)
    return McpOptions(
        version=VERSION,
        default_wait=wait,
        toolsets=frozenset(settings.toolsets),
        tool_prefix=settings.tool_prefix or "",
        extensions=extensions or {},
    )


def declare_extensions(extensions: Extensions, settings: Settings, rules: SignInRules) -> None:
    """Note which extensions are served over HTTP by the rules of sign-in: tokens of programs, where any is declared."""
    if settings.resource_url is not None and any(issuer.services for issuer in rules.issuers):
        extensions[_CLIENT_CREDENTIALS] = {}
    else:
        extensions.pop(_CLIENT_CREDENTIALS, None)
