"""Every command of the program, from the tree that click parses with."""

from collections.abc import Iterator

import click

from agentapi_mcp.cli.main import main


def all_commands(group: click.Group = main, before: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield what does something, by what is typed for it: a group only where it does something of its own."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = (*before, name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield " ".join(words), command
        if isinstance(command, click.Group):
            yield from all_commands(command, words)


COMMANDS = dict(all_commands())
