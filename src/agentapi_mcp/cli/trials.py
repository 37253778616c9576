"""The trial of an entry: start the server as the MCP client will, and call a tool."""

import asyncio
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TextIO

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import Implementation, TextContent

from agentapi_mcp import __version__
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.exceptions import innermost
from agentapi_mcp.base.json_values import as_list, as_object, is_object
from agentapi_mcp.base.paging import Page, read_all
from agentapi_mcp.base.text import listed, number_of
from agentapi_mcp.cli.config_secrets import hide
from agentapi_mcp.cli.mcp_clients import Entry, McpClient, words_of
from agentapi_mcp.core.clients.models import TRIAL
from agentapi_mcp.environ import platform

_LISTING = "list_agents"
_TRIAL_SECONDS = 120.0  # includes a first start, which creates the embedded database
# What desktop programs get, which read no shell profile: with our own PATH, the trial would prove nothing.
_MINIMAL_PATHS = {"linux": "/usr/local/bin:/usr/bin:/bin", "darwin": "/usr/bin:/bin:/usr/sbin:/sbin"}
_UNSET = re.compile(r"\b([A-Za-z_][A-Za-z0-9_]*) is not set\b")
_INHERITED_VARIABLES = ("HOME", "USER", "LOGNAME", "LANG", "APPDATA", "LOCALAPPDATA", "SYSTEMROOT", "TEMP", "TMPDIR")


async def try_server(client: McpClient, entry: Entry, environ: Mapping[str, str], secrets: Sequence[str]) -> str:
    """Start the server as the client will, call a tool, and describe the result with the secrets hidden.

    Raises:
        ConfigurationError: the server does not start or does not answer.
    """
    env = {name: environ[name] for name in _INHERITED_VARIABLES if name in environ}
    env |= {"PATH": _MINIMAL_PATHS.get(platform(), os.defpath)}
    env |= client.start_environment(entry, environ)
    env |= {"AGENTAPI_RESIDENT": "0"}  # a trial leaves no server behind, and hears on stderr why one does not start
    command, *args = words_of(entry)
    parameters = StdioServerParameters(command=command, args=args, env=env)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        started = monotonic()
        timeout_message = f"it did not answer within {_TRIAL_SECONDS:.0f} s"
        try:
            async with asyncio.timeout(_TRIAL_SECONDS):
                works, summary = await _probe(client, parameters, log, environ)
        except Exception as exc:  # noqa: BLE001  # any failure of the trial is reported with the server's log
            log.seek(0)
            last = [line for line in log.read().splitlines() if line.strip()][-5:]
            works, summary = (
                False,
                "; ".join(last) or (timeout_message if isinstance(exc, TimeoutError) else _words_of(exc)),
            )
        if works:
            return f"Tried it as {client.title} starts it: {summary}, in {monotonic() - started:.1f} s."
    raise ConfigurationError(
        f"The server does not work as {client.title} would start it ({parameters.command}): "
        f"{hide(summary, secrets)} "
        "Nothing was written; `agentapi-mcp doctor` tells more, and --force writes it all the same."
    )


async def _probe(
    client: McpClient, parameters: StdioServerParameters, log: TextIO, environ: Mapping[str, str]
) -> tuple[bool, str]:
    """Return whether the server works, with its tools and usable agents, or its error."""
    info = Implementation(name=f"{TRIAL} ({client.title})", version=__version__)
    async with Client(stdio_client(parameters, errlog=log), client_info=info) as session:
        tools = (await session.list_tools()).tools
        # Its name has the server's prefix, and other toolsets than the usual one have no such tool.
        listing = next((tool.name for tool in tools if tool.name.endswith(_LISTING)), None)
        if listing is None:
            return True, number_of(len(tools), "tool")
        try:
            agents = await read_all(partial(_list_agents, session, listing))
        except ConfigurationError as exc:
            return False, str(exc)
    ready = [str(agent["name"]) for agent in agents if agent["enabled"] and not agent["missing"]]
    return (
        True,
        f"{number_of(len(tools), 'tool')}; agents that can be used: {listed(ready)}{_withheld(agents, environ)}",
    )


def _withheld(agents: Sequence[Mapping[str, object]], environ: Mapping[str, str]) -> str:
    """Say which agents lack a variable that is set here, and so could be handed on."""
    missing = {str(agent["name"]): _UNSET.findall(" ".join(map(str, as_list(agent["missing"])))) for agent in agents}
    lacking = {name: [each for each in names if environ.get(each)] for name, names in missing.items()}
    variables = dict.fromkeys(variable for names in lacking.values() for variable in names)
    if not variables:
        return ""
    options = " ".join(f"--env {variable}" for variable in variables)
    return f"; with {options} also {listed([name for name, names in lacking.items() if names])}"


def _words_of(failed: Exception) -> str:
    cause = innermost(failed)
    return f"{type(cause).__name__}: {cause}"


async def _list_agents(session: Client, tool: str, cursor: str | None) -> Page[Mapping[str, object]]:
    answer = await session.call_tool(tool, {} if cursor is None else {"cursor": cursor})
    structured: object = answer.structured_content
    if answer.is_error or not is_object(structured):
        raise ConfigurationError(" ".join(part.text for part in answer.content if isinstance(part, TextContent)))
    more = structured["next_cursor"]
    return Page(tuple(map(as_object, as_list(structured["agents"]))), more if isinstance(more, str) else None)
