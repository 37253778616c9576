"""Which toolsets a client over HTTP has chosen: by its token, and by the address that it calls."""

from collections.abc import Mapping
from urllib.parse import parse_qs

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.presentation.text import shown
from agentapi_mcp.web.requests import PRINCIPAL

TOOLSETS = "toolsets"  # the parameter of the address


def chosen_toolsets(scope: Mapping[str, object]) -> frozenset[str] | None:
    """Return the toolsets that a request chooses; None if it chooses none. The address narrows what the token chose.

    Raises:
        MCPError: the address names a toolset that there is not, or none that the token has.
    """
    principal = scope.get(PRINCIPAL)
    own = principal.toolsets if isinstance(principal, Principal) else None
    if own is not None:
        own &= frozenset(toolset_names())  # a newer program may have stored others
    named = toolsets_in(scope)
    if named is None:
        return own
    asked, there = frozenset(named), frozenset(toolset_names()) if own is None else own
    unknown = sorted(asked - there)
    if unknown or not asked:
        wrong = ", ".join(shown(name) for name in unknown) or "none"
        listed = ", ".join(name for name in toolset_names() if name in there)
        for_whom = "" if own is None else ", for this token"
        raise MCPError(INVALID_PARAMS, f"The address names the toolsets {wrong}; there are {listed}{for_whom}.")
    return asked


def toolsets_in(scope: Mapping[str, object]) -> list[str] | None:
    """Return the toolsets that the address of a request names; None if it says nothing of them."""
    query = scope.get("query_string")
    if not isinstance(query, bytes) or not query:
        return None
    values = parse_qs(query.decode("latin-1")).get(TOOLSETS)
    if values is None:
        return None
    return [name.strip() for value in values for name in value.split(",") if name.strip()]
