"""Pydantic AI with its defaults: `pydantic_ai.py TARGET PROMPT`."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # this file has the library's name

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel


async def main() -> None:
    """Run one prompt."""
    target = json.loads(sys.argv[1])
    server = MCPToolset(target["url"] or StdioTransport(target["command"], target["args"], env=target["env"]))
    agent = Agent(OpenAIChatModel("fake"), toolsets=[server])
    async with agent:
        ran = await agent.run(sys.argv[2])
        sys.stdout.write(f"{ran.output}\n")


asyncio.run(main())
