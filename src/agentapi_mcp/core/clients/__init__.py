"""MCP clients of users: preferences, transport sessions and elicitations."""
