"""Run the MCP server over stdio until stdin ends or a signal stops it."""

import asyncio
import logging
import os
import signal
import sys

from agentapi_mcp.app.mcp_options import mcp_options
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.edges.mcp.cancellations import ClientConnection
from agentapi_mcp.edges.mcp.front.thread import FrontThread
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.edges.mcp.transports.stdio import serve_stdio
from agentapi_mcp.environ import environment
from agentapi_mcp.settings import BARE_NAMES, Settings, for_stdio, load_settings, with_tool_prefix, with_toolsets
from agentapi_mcp.telemetry import configure_logs

_log = logging.getLogger(__name__)
# Seconds for what is written when stdin ends.
_LAST_WORDS = 5


def main(toolsets: str | None = None, front: FrontThread | None = None, *, tool_prefix: str | None = None) -> None:
    """Serve one client over stdin and stdout, after the front, if there is one.

    `toolsets`, comma-separated, and `tool_prefix` override the settings.
    """
    try:
        settings = with_tool_prefix(with_toolsets(load_settings(BARE_NAMES), toolsets), tool_prefix)
        settings, ignored = for_stdio(settings, environment())
    except ConfigurationError as exc:
        if front is not None:
            front.refuse(f"The server does not start: {exc}")
        print_err(f"agentapi-mcp: {exc}")
        sys.exit(3)
    configure_logs(settings.log_level)
    for name in ignored:
        _log.warning("variable_not_read_over_stdio", extra={"variable": name, "instead": f"AGENTAPI_{name}"})
    asyncio.run(_serve_and_leave(settings, front))


async def _serve_and_leave(settings: Settings, front: FrontThread | None) -> None:
    """Serve until stdin ends and no turn runs any more, or until a signal arrives; then end the process."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with asyncio.TaskGroup() as group:
        async with open_app(settings, environment()) as app:
            loop.add_signal_handler(signal.SIGHUP, app.services_provider.reload)
            server = create_server(app.services_provider, mcp_options(settings))
            client = ClientConnection()
            handover = None if front is None else front.hand_over()
            serving = group.create_task(serve_stdio(server, client=client, handover=handover))
            signals = [group.create_task(_wait_for(event)) for event in (stopped, client.broken, client.ended)]
            await asyncio.wait({serving, *signals}, return_when=asyncio.FIRST_COMPLETED)
            if client.ended.is_set():
                # A client that reads no more, but keeps its end of our output open, must not keep us for ever.
                await asyncio.wait({serving, *signals[:2]}, timeout=_LAST_WORDS, return_when=asyncio.FIRST_COMPLETED)
            if client.broken.is_set():
                _log.warning("client_gone", extra={"reason": "nobody reads stdout any more"})
            services = app.services_provider.find()
            if services is not None and not stopped.is_set():
                # The client is gone. What it asked runs on, for whoever asks again, and within limits of its own.
                await first_of(services.turns.until_idle(), stopped.wait())
        sys.stderr.flush()
        # The SDK's thread that reads stdin cannot be interrupted, and a normal exit would wait for it.
        os._exit(0)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()
