"""The root command; subcommands are imported on first use, so that starting the stdio server stays fast."""

import sys
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from agentapi_mcp import __version__
from agentapi_mcp.cli import commands
from agentapi_mcp.cli.options import tool_prefix_option, toolsets_option
from agentapi_mcp.cli.terminal import OutputError, cleaned, end_with_the_reader, give_up_output, output_width

_NARROWEST_OF_CLICK = 52


class CommandModules(MutableMapping[str, click.Command]):
    """The commands in the package `commands` by name; a look-up imports the module."""

    def __init__(self) -> None:
        self._commands: dict[str, click.Command | None] = dict.fromkeys(commands.SUMMARIES)

    @override
    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if command is None:
            command = _load(name)
            self._commands[name] = command
        return command

    @override
    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    @override
    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    @override
    def __contains__(self, name: object) -> bool:
        return name in self._commands  # the mixin's version would import the module

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    @override
    def __len__(self) -> int:
        return len(self._commands)


def _load(name: str) -> click.Command:
    """Import the module of a command; the command in it has the same name."""
    command: click.Command = getattr(import_module(f"{commands.__name__}.{name}"), name)
    import_module("agentapi_mcp.cli.help_pages").add_examples(command, name)
    return command


class CleanGroup(click.Group):
    """The root command: its own messages quote what was typed, and its help imports no command."""

    @override
    def main(self, *args: Any, **kwargs: Any) -> Any:
        with cleaned():
            try:
                # Click's help is never narrower than fifty columns by itself.
                narrow = {"terminal_width": output_width()} if output_width() < _NARROWEST_OF_CLICK else {}
                return super().main(*args, **kwargs, **narrow)
            except OutputError as exc:
                give_up_output(exc)
                sys.exit(1)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            end_with_the_reader()

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        meant = commands.LOOKED_FOR.get(args[0].lower())
        if meant is not None and not ctx.resilient_parsing:
            what = f"What you look for may be `agentapi-mcp {meant}`."
            raise click.UsageError(f"No such command {args[0]!r}. {what}", ctx)
        return super().resolve_command(ctx, args)

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        names = [
            CompletionItem(name, help=summary)
            for name, summary in commands.SUMMARIES.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]  # a group's would import every command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.list_commands(ctx)))
        for heading, names in commands.GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in names.items()])


@click.group(
    cls=CleanGroup,
    commands=CommandModules(),
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="agentapi-mcp")
@toolsets_option
@tool_prefix_option
@click.pass_context
def main(context: click.Context, toolsets: str | None, tool_prefix: str | None) -> None:
    """Talk to all your agents through one MCP server. Without a command, be that server, over stdio.

    `agentapi-mcp help COMMAND` shows the options of a command, with examples.
    """
    if context.invoked_subcommand is None:
        # Commands do not pay for importing the MCP SDK.
        import_module("agentapi_mcp.cli.stdio").main(toolsets, tool_prefix=tool_prefix)
    elif toolsets is not None or tool_prefix is not None:
        name = "--tool-prefix" if toolsets is None else "--toolsets"
        raise click.UsageError(f"{name} without a command is for the server over stdio; else: serve {name}.")
