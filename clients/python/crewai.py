"""CrewAI with its defaults: `crewai.py TARGET PROMPT`."""

import json
import os
import sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # this file has the library's name

from crewai import LLM, Agent, Crew, Task
from crewai_tools import MCPServerAdapter
from mcp import StdioServerParameters


def main() -> None:
    """Run one prompt."""
    target = json.loads(sys.argv[1])
    server = StdioServerParameters(command=target["command"], args=target["args"], env=target["env"])
    if target["url"]:
        server = {"url": target["url"], "transport": "streamable-http"}
    llm = LLM(model="gpt-4.1", provider="openai", base_url=os.environ["OPENAI_BASE_URL"])  # noqa: TID251  # the harness sets it
    with MCPServerAdapter(server) as tools:
        agent = Agent(role="Asker", goal="Ask", backstory="Asks.", tools=tools, llm=llm, max_iter=40)
        task = Task(description=sys.argv[2], expected_output="What was done.", agent=agent)
        sys.stdout.write(f"{Crew(agents=[agent], tasks=[task]).kickoff()}\n")


main()
