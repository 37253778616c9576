"""Programs that share one home, and so the few connections of its server."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.session_facts import SessionFilter
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from tests.support.databases import Seed
from tests.support.embedded import SharedHome


async def asked(services: Services) -> TurnStatus:
    """Ask the guide something new."""
    request = ChatRequest(message=f"which agents are there? {uuid4()}", agent="guide")
    return (await services.turns.chat(services.principal, request, wait=timedelta(seconds=25))).status


async def listed(services: Services) -> int:
    """Search the sessions for what is in none."""
    return len((await services.sessions.list_(services.principal, SessionFilter(query=str(uuid4())))).items)


async def test_programs_whose_pools_exceed_the_servers_connections_answer_all_calls(seed: Seed) -> None:
    with tempfile.TemporaryDirectory(prefix="sh-", dir="/tmp", ignore_cleanup_errors=True) as path:
        await asyncio.to_thread(Path(path).chmod, 0o711)
        home = SharedHome(Path(path) / "home")
        await seed.copy_to(home.path)
        settings = Settings(home=home.path, pool_size=30, postgres_linger_seconds=0)
        async with AsyncExitStack() as stack:
            apps = [await stack.enter_async_context(open_app(settings, {})) for _ in range(2)]
            both = [await app.services_provider.services() for app in apps]
            async with asyncio.TaskGroup() as group:
                turns = [group.create_task(asked(each)) for each in both for _ in range(25)]
                lists = [group.create_task(listed(each)) for each in both for _ in range(60)]
        await asyncio.to_thread(home.remove)
    assert {turn.result() for turn in turns} == {TurnStatus.COMPLETED}
    assert {each.result() for each in lists} == {0}
