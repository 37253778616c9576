"""The commands for API keys and for the master keys that seal them."""

import base64
from secrets import token_bytes

import click

from agentapi_mcp.cli.outputs import say


@click.group()
def secrets() -> None:
    """Look after the master keys, which seal what is secret in the database."""


@secrets.command("generate")
def secrets_generate() -> None:
    """Print a new master key."""
    say(base64.b64encode(token_bytes(32)).decode())
