"""What the shell completes: asked by the script of `completion`, with the words so far in variables."""

import io
import os
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from importlib import import_module
from types import ModuleType

import click
from click.shell_completion import CompletionItem, get_completion_class

from agentapi_mcp.base.text import one_line
from agentapi_mcp.cli.ids import short_id
from agentapi_mcp.cli.terminal import print_out

PROGRAM, VARIABLE = "agentapi-mcp", "_AGENTAPI_MCP_COMPLETE"
_WITHIN = 0.4  # seconds; a person has pressed a key and waits
# What a shell reads as one word alone: bash puts it into the line as it is, and a provider may have named it.
_WORD = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9@_./:+,=-]*")
Items = list[CompletionItem[str]]


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
        if name.startswith(incomplete) and _WORD.fullmatch(name)
    ]
