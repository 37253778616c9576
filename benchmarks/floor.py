"""The floor: the bare SDK with one tool that asks the same provider and keeps nothing."""

import sys

import httpx2
from mcp.server.mcpserver import MCPServer

server = MCPServer("floor", log_level="ERROR")
provider = httpx2.AsyncClient(base_url=sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1")


@server.tool()
async def chat(message: str, model: str = "instant") -> str:
    """Ask the provider."""
    if model == "none":
        return message
    body = {"model": model, "messages": [{"role": "user", "content": message}]}
    answer = await provider.post("/chat/completions", json=body, timeout=60)
    return str(answer.json()["choices"][0]["message"]["content"])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", port=int(sys.argv[1]), stateless_http=True)
