"""What the shell completes: asked by the script of `completion`, with the words so far in variables."""

import io
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from importlib import import_module
from types import ModuleType

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)
from typing_extensions import override

from agentapi_mcp.base.text import one_line
from agentapi_mcp.cli.ids import short_id
from agentapi_mcp.cli.terminal import print_out

PROGRAM, VARIABLE = "agentapi-mcp", "_AGENTAPI_MCP_COMPLETE"
_WITHIN = 0.4  # seconds; a person has pressed a key and waits
Items = list[CompletionItem[str]]
# What bash reads as nothing but a part of a word.
_PLAIN = r"\w@%+=:,./-"
_BASH = """\
%(complete_func)s() {
    local line response
    COMPREPLY=()
    response=$(env COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \
%(complete_var)s=bash_complete "$1")
    while IFS= read -r line; do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) COMPREPLY+=("${line#plain,}") ;;
        esac
    done <<< "$response"
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class _Bash(BashComplete):
    """Completion in bash; click's own is lost in words with a colon, where bash splits, and inserts names unquoted."""

    source_template = _BASH

    @override
    def get_completion_args(self) -> tuple[list[str], str]:
        words = split_arg_string(f"{_line()}x")  # whose end is in the last word, also after a blank
        return words[1:-1], words[-1].removesuffix("x")

    @override
    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type != "plain":
            return super().format_completion(item)
        return f"plain,{_inserted(item.value, self.get_completion_args()[1])}"

    @override
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        # Between quotes, only what needs none can be inserted.
        return [item for item in found if not _is_quoted() or re.fullmatch(f"[ {_PLAIN}]*", item.value)]


def _line() -> str:
    """Return the command up to the cursor."""
    return os.environ["COMP_WORDS"]  # noqa: TID251  # of the shell's script, and no setting


def _is_quoted() -> bool:
    try:
        shlex.split(f"{_line()}x")
    except ValueError:
        return True
    return False


def _inserted(value: str, incomplete: str) -> str:
    """Return what takes the place of the word as bash sees it, which begins after the last character that splits."""
    if _is_quoted():
        return value
    option, equals, _ = incomplete.partition("=")
    whole = f"{option}{equals}{value}" if option.startswith("-") and equals else value
    breaks = {":", "="}.intersection(os.environ["COMP_BREAKS"])  # noqa: TID251  # as above
    begin = max((incomplete.rfind(character) + 1 for character in breaks), default=0)
    return re.sub(f"([^{_PLAIN}])", r"\\\1", whole[begin:])


def complete() -> None:
    """Print what may follow; whatever fails, nothing, since a shell would show it in the middle of the line."""
    shell, _, asked = os.environ[VARIABLE].partition("_")  # noqa: TID251  # of the shell's script, and no setting
    found = get_completion_class(shell)
    with suppress(Exception), redirect_stderr(io.StringIO()):
        if found is not None and asked == "complete":
            main: click.Command = import_module("agentapi_mcp.cli.main").main
            print_out(found(main, {}, PROGRAM, VARIABLE).complete())


def script(main: click.Command, shell: str) -> str:
    """Return the script that makes a shell ask."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  # the shells that `completion` takes
    return found(main, {}, PROGRAM, VARIABLE).source()


def agent_names(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Return the agents of the configuration files."""
    app, settings, environ = _loaded()
    return _fitting([(agent.name, agent.description) for agent in app.agents(settings, environ)], incomplete)


def model_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Return the models of the agent that is named, or of all."""
    app, settings, environ = _loaded()
    wanted = context.params.get("agent")
    declared = [agent for agent in app.agents(settings, environ) if wanted in {None, agent.name}]
    return _fitting([(model.name, agent.name) for agent in declared for model in agent.models], incomplete)


def session_ids(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Items:
    """Return the short ids of the newest sessions, with their titles."""
    app, settings, environ = _loaded()
    sessions = app.newest_sessions(settings, environ, _WITHIN)
    return _fitting([(short_id(str(session.id)), session.title) for session in sessions], incomplete)


def _loaded() -> tuple[ModuleType, object, object]:
    settings = import_module("agentapi_mcp.settings")
    return import_module("agentapi_mcp.app.completions"), settings.load_settings(), settings.environment()


def _fitting(found: Sequence[tuple[str, str | None]], incomplete: str) -> Items:
    return [
        CompletionItem(name, help=one_line(about or "", 80) or None)
        for name, about in dict(found).items()
        if name.startswith(incomplete) and name.isprintable()  # else it is more than one line
    ]
