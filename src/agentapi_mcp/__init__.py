"""One MCP server in front of all of an organisation's agents."""
