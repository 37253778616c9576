"""Google's Agent Development Kit with its defaults: `adk.py TARGET PROMPT`."""

import asyncio
import json
import sys

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset
from google.adk.tools.mcp_tool.mcp_session_manager import StdioConnectionParams, StreamableHTTPConnectionParams
from google.genai import types
from mcp import StdioServerParameters


async def main() -> None:
    """Run one prompt."""
    target = json.loads(sys.argv[1])
    if target["url"]:
        parameters = StreamableHTTPConnectionParams(url=target["url"])
    else:
        server = StdioServerParameters(command=target["command"], args=target["args"], env=target["env"])
        parameters = StdioConnectionParams(server_params=server)
    tools = McpToolset(connection_params=parameters)
    agent = LlmAgent(name="asker", model="gemini-2.5-flash", tools=[tools])
    runner = InMemoryRunner(agent=agent)
    session = await runner.session_service.create_session(app_name=runner.app_name, user_id="user")
    message = types.Content(role="user", parts=[types.Part(text=sys.argv[2])])
    async for event in runner.run_async(user_id="user", session_id=session.id, new_message=message):
        for part in (event.content and event.content.parts) or ():
            sys.stdout.write(f"{part.text or ''}\n")
    await tools.close()


asyncio.run(main())
