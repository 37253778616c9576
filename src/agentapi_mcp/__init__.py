"""One MCP server in front of all of an organisation's agents.

From Python, `agentapi_mcp.connect()` opens a client of it: see `agentapi_mcp.client`.
"""

TYPE_CHECKING = False  # type checkers take it for true; `typing` itself is slow to import
if TYPE_CHECKING:
    from agentapi_mcp.client import connect as connect

__version__ = "0.1.0"  # the one place: the build, the command and the edges read it here


def __getattr__(name: str) -> object:
    """Import the client only where it is used: it brings the MCP SDK, and the commands start without."""
    if name != "connect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentapi_mcp.client import connect  # noqa: PLC0415  # see above

    return connect
