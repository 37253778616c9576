"""Where the server over stdio begins: a bridge where clients share a server, and otherwise nothing."""

import os
from importlib import import_module

from agentapi_mcp.resident.environment import Environment


def serve(toolsets: str | None) -> None:
    """Be the bridge until the client ends, and never return; return at once where there can be no resident server."""
    environment = Environment(os.environb)
    if not environment.is_wrong and not environment.reason_against():
        import_module("agentapi_mcp.resident.bridge").serve(environment, toolsets)
