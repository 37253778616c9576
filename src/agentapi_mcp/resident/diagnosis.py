"""What `doctor` tells of the servers that clients over stdio share."""

import os
import shlex
from collections.abc import Mapping

from agentapi_mcp.base.json_values import as_list
from agentapi_mcp.base.text import number_of
from agentapi_mcp.core.diagnosis.models import Check, not_in_use, ok, warning
from agentapi_mcp.resident.control import find_servers
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.place import NoPlaceError, check_place

_NAME = "shared server"


def check_servers(environ: Mapping[str, str]) -> Check:
    """Check whether clients over stdio share a server, and whether those that run answer."""
    environment = Environment({os.fsencode(name): os.fsencode(value) for name, value in environ.items()})
    silent = [server for server in find_servers(environ) if not server.answers]
    if silent:
        pids = ", ".join(str(server.pid or "unknown") for server in silent)
        return warning(_NAME, f"process {pids} does not answer its clients", "agentapi-mcp stop --force")
    reason = environment.reason_against()
    if reason:
        return not_in_use(_NAME, f"each client over stdio has its own: {reason}")
    try:
        check_place(environment)
    except NoPlaceError as exc:
        lines = [] if exc.path is None else [f"chmod 700 {shlex.quote(exc.path)}"]
        return warning(_NAME, f"each client over stdio has its own: {exc}", *lines)
    return ok(_NAME, _use(environ))


def _use(environ: Mapping[str, str]) -> str:
    servers = find_servers(environ)
    if not servers:
        return "clients over stdio share one, which none has started"
    clients = sum(len(as_list(server.facts.get("clients"))) for server in servers)
    turns = sum(server.running_turns for server in servers)
    running = "1 runs" if len(servers) == 1 else f"{len(servers)} run"
    used = f"{number_of(clients, 'client')} and {number_of(turns, 'running turn')}"
    return f"clients over stdio share one: {running}, with {used}"
