"""`mcp-agent` with its defaults: `mcp_agent.py TARGET PROMPT`."""

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # this file has the library's name

from mcp_agent.agents.agent import Agent
from mcp_agent.app import MCPApp
from mcp_agent.config import MCPServerSettings, MCPSettings, OpenAISettings, Settings
from mcp_agent.workflows.llm.augmented_llm import RequestParams
from mcp_agent.workflows.llm.augmented_llm_openai import OpenAIAugmentedLLM


async def main() -> None:
    """Run one prompt."""
    target = json.loads(sys.argv[1])
    server = MCPServerSettings(command=target["command"], args=target["args"], env=target["env"])
    if target["url"]:
        server = MCPServerSettings(transport="streamable_http", url=target["url"])
    settings = Settings(
        execution_engine="asyncio",
        mcp=MCPSettings(servers={"agentapi": server}),
        openai=OpenAISettings(api_key="x", base_url=os.environ["OPENAI_BASE_URL"], default_model="gpt-4.1"),  # noqa: TID251  # the harness sets it
    )
    async with MCPApp(name="asker", settings=settings).run():
        agent = Agent(name="asker", instruction="Ask.", server_names=["agentapi"])
        async with agent:
            llm = await agent.attach_llm(OpenAIAugmentedLLM)
            said = await llm.generate_str(sys.argv[2], RequestParams(max_iterations=40))
            sys.stdout.write(f"{said}\n")


asyncio.run(main())
