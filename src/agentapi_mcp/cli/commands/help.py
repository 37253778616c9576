"""`agentapi-mcp help`: the help of a command, as --help shows it."""

import click

from agentapi_mcp.cli.terminal import print_out


@click.command()
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help(context: click.Context, words: tuple[str, ...]) -> None:  # noqa: A001  # the name of the command
    """Show the help of a command."""
    shown = context.find_root()
    for word in words:
        group = shown.command
        command = group.get_command(shown, word) if isinstance(group, click.Group) else None
        if not isinstance(group, click.Group) or command is None:
            raise click.UsageError(f"{shown.command_path} has no command {word!r}.", shown)
        shown = click.Context(command, info_name=word, parent=shown)
    print_out(shown.get_help())
