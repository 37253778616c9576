"""The MCP edge."""
