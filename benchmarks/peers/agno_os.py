"""Agno's AgentOS with one agent, SQLite and its MCP server; run by the environment of the peers."""

# pyright: basic, reportMissingImports=false
import sys

import uvicorn
from agno.agent import Agent
from agno.db.sqlite import AsyncSqliteDb
from agno.models.openai.like import OpenAILike
from agno.os import AgentOS

port, provider, place = sys.argv[1:]
agent = Agent(
    id="bench",
    name="bench",
    model=OpenAILike(id="instant", base_url=provider, api_key="none"),
    db=AsyncSqliteDb(db_file=f"{place}/agno.db"),
    telemetry=False,
)
app = AgentOS(agents=[agent], mcp=True, telemetry=False).get_app()
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")
