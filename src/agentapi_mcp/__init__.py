"""One MCP server in front of all of an organisation's agents."""

__version__ = "0.1.0"  # the one place: the build, the command and the edges read it here
