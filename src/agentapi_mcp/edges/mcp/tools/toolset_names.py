"""The names of the toolsets, found without importing any: the settings and the command line need no more."""

import pkgutil

from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.edges.mcp.tools import toolsets


def toolset_names() -> tuple[str, ...]:
    """Return the names in the order in which the toolsets are listed: `core` first, then by name."""
    found = (module.name for module in pkgutil.iter_modules(toolsets.__path__))
    return tuple(sorted(found, key=lambda name: (name != DEFAULT_TOOLSET, name)))
