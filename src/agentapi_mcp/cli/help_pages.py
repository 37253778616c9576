"""How the help of commands is laid out: whole sentences, and examples at the end."""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module

import click
from typing_extensions import override

_EXAMPLES = "\n\n\b\nExamples:\n"
_WHOLE = 1000  # characters: more than a sentence has


class CommandGroup(click.Group):
    """A group whose help shows the whole first sentence of each command, where click would cut it."""

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        commands = [(name, self.get_command(ctx, name)) for name in names]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(_WHOLE)) for name, each in commands if each is not None])


def add_examples(command: click.Command, words: str) -> None:
    """Put the examples of a command, and of those below it, at the end of its help; `words` is what is typed for it."""
    examples: Mapping[str, Iterable[str]] = import_module("agentapi_mcp.cli.examples").EXAMPLES
    for name, each in _below(command, words):
        if name in examples:
            lines = "\n".join(f"  {line}" for line in examples[name])
            before = (each.epilog or "").partition(_EXAMPLES)[0]  # a command may be loaded twice
            each.epilog = f"{before}{_EXAMPLES}{lines}"


def _below(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _below(each, f"{words} {name}")
