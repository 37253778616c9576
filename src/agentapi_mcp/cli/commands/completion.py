"""`agentapi-mcp completion`: the script that makes a shell complete."""

import click

from agentapi_mcp.cli.completions import script
from agentapi_mcp.cli.terminal import print_out


@click.command()
@click.argument("shell", type=click.Choice(("bash", "fish", "zsh")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, agents, models and sessions.

    Let the shell read it at each start, as in the examples. Sessions are completed where the database is there already.
    """
    print_out(script(context.find_root().command, shell), end="")
