"""OpenAI Agents SDK with its defaults: `agents_sdk.py TARGET PROMPT`."""

import asyncio
import json
import sys

from agents import Agent, Runner, set_default_openai_api
from agents.mcp import MCPServerStdio, MCPServerStreamableHttp


async def main() -> None:
    """Run one prompt."""
    target = json.loads(sys.argv[1])
    set_default_openai_api("chat_completions")
    if target["url"]:
        server = MCPServerStreamableHttp(params={"url": target["url"]})
    else:
        server = MCPServerStdio(params={name: target[name] for name in ("command", "args", "env")})
    async with server:
        agent = Agent(name="asker", model="fake", mcp_servers=[server])
        ran = await Runner.run(agent, sys.argv[2], max_turns=40)
        sys.stdout.write(f"{ran.final_output}\n")


asyncio.run(main())
