"""How MCP messages arrive: stdio, Streamable HTTP in both eras, SSE."""
