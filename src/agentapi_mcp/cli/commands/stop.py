"""`agentapi-mcp stop`: end the servers that clients over stdio share."""

import sys

import click

from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import FAILED, print_json
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.environ import environment
from agentapi_mcp.resident.control import ResidentServer, find_servers
from agentapi_mcp.resident.control import stop as stop_server


@click.command()
@click.option("--force", is_flag=True, help="Kill a server that does not end.")
@json_option
def stop(*, force: bool, as_json: bool) -> None:
    """End the servers that clients over stdio share; the next call of a client starts one again."""
    servers = find_servers(environment())
    left = [server for server in servers if not _stop(server, force=force)]
    stopped = [server for server in servers if server not in left]
    if as_json:
        print_json({"stopped": [server.pid for server in stopped], "left": [server.pid for server in left]})
    else:
        _print(stopped, left)
    if left:
        sys.exit(FAILED)


def _stop(server: ResidentServer, *, force: bool) -> bool:
    if not server.answers and not force:
        print_err(f"agentapi-mcp: {_name(server)} does not answer; waiting for its end.")
    return stop_server(server, force=force)


def _name(server: ResidentServer) -> str:
    return f"the server with the process id {server.pid or 'unknown'}"


def _print(stopped: list[ResidentServer], left: list[ResidentServer]) -> None:
    for server in stopped:
        turns = server.running_turns
        ran = f"; it ran {number_of(turns, 'turn')}, of which `turns list` tells the end" if turns else ""
        print_out(f"Stopped: {_name(server)}{ran}.")
    for server in left:
        print_err(f"agentapi-mcp: {_name(server)} does not end: say --force. Its log is {server.place.log}.")
    if not stopped and not left:
        print_out("None runs.")
