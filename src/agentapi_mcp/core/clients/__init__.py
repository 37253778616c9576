"""MCP clients: what users chose in them, and their transport sessions."""
