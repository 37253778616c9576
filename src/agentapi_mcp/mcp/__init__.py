"""The MCP edge: tools, resources, prompts and update notifications over the official SDK."""
