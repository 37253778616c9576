"""The MCP server: prompts, resources, completions, subscriptions, and their assembly."""
