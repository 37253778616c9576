"""`agentapi-mcp status`: the servers that clients over stdio share."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime

import click

from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, table
from agentapi_mcp.cli.terminal import print_out
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.values import local_time
from agentapi_mcp.resident.control import ResidentServer, differences, find_servers
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.place import NoPlaceError, check_place


@click.command()
@json_option
def status(*, as_json: bool) -> None:
    """Show the servers that clients over stdio share, and those clients."""
    environ = environment()
    reason = _reason_against(environ)
    servers = find_servers(environ)
    if as_json:
        told = {"shared": not reason, "reason": reason or None, "servers": [_json(server) for server in servers]}
        print_json({**told, "differ_in": differences(servers)})
        return
    print_out(f"A client here gets a server of its own: {reason}." if reason else "Clients here share a server.")
    if not servers:
        print_out("None runs.")
        return
    table(("PID", "VERSION", "SINCE", "CLIENTS", "RUNNING TURNS", "STATE"), [_row(server) for server in servers])
    names = differences(servers)
    if names:
        print_out(f"The servers differ in these variables: {', '.join(names)}.")
    rows = [row for server in servers for row in _clients(server)]
    if rows:
        print_out("")
        table(("CLIENT", "PID", "SINCE", "OPEN CALLS", "DIRECTORY", "SERVER"), rows)


def _reason_against(environ: Mapping[str, str]) -> str:
    """Say why a client of this environment gets a server of its own; empty if it shares one."""
    own = Environment({os.fsencode(name): os.fsencode(value) for name, value in environ.items()})
    try:
        check_place(own)
    except NoPlaceError as exc:
        return own.reason_against() or str(exc)
    return own.reason_against()


def _json(server: ResidentServer) -> dict[str, object]:
    return {
        "pid": server.pid,
        "answers": server.answers,
        "ending": server.ending is not None,
        "log": server.place.log,
        **server.facts,
    }


def _row(server: ResidentServer) -> Sequence[object]:
    facts = server.facts
    if not server.answers:
        return server.pid, None, None, None, None, "does not answer"
    clients = len(as_list(facts.get("clients")))
    return server.pid, facts.get("version"), _time(facts.get("since")), clients, server.running_turns, _state(server)


def _state(server: ResidentServer) -> str:
    if server.ending is not None:
        return "ending"
    idle = server.facts.get("idle_since")
    return "in use" if idle is None else f"idle since {_time(idle)}"


def _clients(server: ResidentServer) -> list[Sequence[object]]:
    clients = [as_object(each) for each in as_list(server.facts.get("clients"))]
    return [
        (
            each.get("name"),
            each.get("pid"),
            _time(each.get("since")),
            each.get("open_requests"),
            each.get("cwd"),
            server.pid,
        )
        for each in clients
    ]


def _time(value: object) -> str:
    """Return a time as the clock on the wall shows it."""
    return "" if not isinstance(value, str) else local_time(datetime.fromisoformat(value), seconds=True)
