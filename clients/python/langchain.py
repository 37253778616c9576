"""LangChain's MCP adapters with their defaults: `langchain.py TARGET PROMPT`."""

import asyncio
import json
import sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # this file has the library's name

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_openai import ChatOpenAI


async def main() -> None:
    """Run one prompt."""
    target = json.loads(sys.argv[1])
    entry = {"transport": "stdio", **{name: target[name] for name in ("command", "args", "env")}}
    if target["url"]:
        entry = {"transport": "http", "url": target["url"]}
    tools = await MultiServerMCPClient({"agentapi": entry}).get_tools()
    agent = create_agent(ChatOpenAI(model="fake"), tools)
    ran = await agent.ainvoke({"messages": [("user", sys.argv[2])]}, {"recursion_limit": 80})
    sys.stdout.write(f"{ran['messages'][-1].content}\n")


asyncio.run(main())
