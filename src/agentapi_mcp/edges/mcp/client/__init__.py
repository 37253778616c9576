"""Requests from the server to the client: MCP's elicitation."""
