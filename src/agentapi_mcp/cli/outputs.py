"""Run commands and print: results on stdout, errors on stderr, exit statuses from one table."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import NoReturn
from uuid import UUID

import click

from agentapi_mcp import __version__
from agentapi_mcp.base import log_context
from agentapi_mcp.base.errors import (
    AgentApiError,
    BackendError,
    CallerError,
    ConfigurationError,
    IssuerUnavailableError,
    NextStep,
    PermissionDeniedError,
    StoreError,
    sentences,
)
from agentapi_mcp.base.exceptions import innermost, notes_of
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.visible import replace_invisible
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.ids import short_id
from agentapi_mcp.cli.tables import laid_out
from agentapi_mcp.cli.terminal import (
    OutputError,
    end_with_the_reader,
    output_width,
    print_err,
    print_out,
    prints_unicode,
    visible,
)
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.errors import ErrorWords, error_fields, explain_error

TYPE_CHECKING = False  # type checkers take it for true; the help of a command needs none of these
if TYPE_CHECKING:
    import asyncio

    from agentapi_mcp.core.services import Services
    from agentapi_mcp.settings import Settings
else:
    asyncio = LazyModule("asyncio")

_log = logging.getLogger(__name__)
FAILED = 1
INTERRUPTED = 130
INTERNAL = 70
# The first matching class decides.
EXIT_STATUS: tuple[tuple[type[AgentApiError], int], ...] = (
    (CallerError, 2),
    (BackendError, FAILED),
    (ConfigurationError, 3),
    (IssuerUnavailableError, 3),
    (StoreError, 3),
    (AgentApiError, INTERNAL),
)
WORDS = ErrorWords(
    next_steps={
        NextStep.FIND_SESSION: "`agentapi-mcp sessions list` shows those there are.",
        NextStep.FIND_TURN: "`agentapi-mcp turns list` shows those there are.",
        NextStep.WAIT_OR_CANCEL: "Wait for it (`agentapi-mcp turns show {turn_id}` shows how far it is) or end it "
        "(`agentapi-mcp turns cancel {turn_id}`), then try again.",
        NextStep.LEAVE_RETRY_OUT: "To get that turn, leave --retry out; to ask anew, say --new, or a new "
        "--idempotency-key if you say one.",
    },
    arguments={
        "add": "TAGS",
        "agent": "--agent",
        "base_url": "--base-url",
        "category": "--category",
        "clear": "--clear",
        "color": "--color",
        "content": "--content",
        "cost_usd": "--cost",
        "description": "--description",
        "ended_at": "--ended",
        "expires_in": "--expires-in",
        "external_id": "--id",
        "external_link": "--link",
        "icon": "--icon",
        "id": "ID",
        "idempotency_key": "--idempotency-key",
        "input_tokens": "--input-tokens",
        "limit": "--limit",
        "max_tokens": "--max-tokens",
        "max_cost_usd": "--max-cost",
        "message": "MESSAGE",
        "model": "--model",
        "name": "--name",
        "new": "--new",
        "note": "--note",
        "output_tokens": "--output-tokens",
        "provider": "PROVIDER",
        "query": "--query",
        "rating": "RATING",
        "remove": "--remove",
        "retry": "--retry",
        "scopes": "--scope",
        "since": "--since",
        "subject": "--agent",
        "session_id": "SESSION_ID",
        "sort_order": "--order",
        "started_at": "--started",
        "system_prompt": "--system",
        "tags": "--tag",
        "temperature": "--temperature",
        "title": "TITLE",
        "token_name": "NAME",
        "turn_id": "TURN_ID",
        "type": "--type",
        "usefulness": "--usefulness",
        "until": "--until",
    },
)


def run(
    work: Callable[[Services, Settings], Awaitable[None]], *, user_id: UUID | None = None, org_id: UUID | None = None
) -> None:
    """Open the services, run the work, for another user or organisation if given, and exit with its status."""
    overrides = {name: value for name, value in (("user_id", user_id), ("org_id", org_id)) if value is not None}

    async def opened() -> None:
        settings = read_settings().model_copy(update=overrides)
        log_context.client.set(f"agentapi-mcp {__version__}, a command")
        log_context.client_program.set("agentapi-mcp")
        startup = import_module("agentapi_mcp.app.startup")  # slow to import, and some commands open nothing
        async with startup.open_app(settings, environment()) as app:
            services: Services = await app.services_provider.services()
            try:
                await work(services, settings)
            except PermissionDeniedError as exc:
                # Commands record denials as the edges do, since each is a way in.
                target = import_module("agentapi_mcp.core.audit.models").AuditTarget("command", _command())
                await services.audit.denied(services.principal, exc, target)
                raise

    guarded(opened)


def _command() -> str:
    context = click.get_current_context(silent=True)
    return "" if context is None else context.command_path.removeprefix(context.find_root().command_path).strip()


def guarded(
    work: Callable[[], Awaitable[None]], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    """Run the work on an event loop; an error becomes one line on stderr and an exit status."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_unwrap_groups(work))
    except AgentApiError as exc:
        fail(exc)
    except BrokenPipeError:
        end_with_the_reader()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (click.exceptions.Exit, click.Abort, click.ClickException, OutputError):
        raise
    except Exception as exc:  # noqa: BLE001  # the outermost handler: a traceback is no message for users
        _log.error("command_failed", exc_info=exc)
        fail(AgentApiError("internal error; the log above has the details."))


async def _unwrap_groups(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except BaseExceptionGroup as group:  # a task group wraps even a single exception
        raise innermost(group) from group


def fail(error: AgentApiError, *, is_told: bool = False) -> NoReturn:
    """Print an error with its next step, as JSON too where that is asked for, and exit with its status.

    `is_told`: the JSON of what was done has it.
    """
    context = click.get_current_context(silent=True)
    if not is_told and context is not None and context.params.get("as_json"):
        print_json({"error": told_fields(error)})
    print_err(f"agentapi-mcp: {sentences(explain(error), *notes_of(error))}")
    sys.exit(next(status for kind, status in EXIT_STATUS if isinstance(error, kind)))


def explain(error: AgentApiError) -> str:
    """Describe an error and the next step, in terms of commands and options."""
    return explain_error(error, WORDS)


def told_fields(error: AgentApiError) -> dict[str, object]:
    """Return an error as JSON: with the fields that the tools have for programs, and what it says."""
    is_agents = isinstance(error, BackendError)
    said = str(error) if is_agents else explain(error)
    return {
        **error_fields(error),
        "message": sentences(said, *notes_of(error)),
        "next_step": error.next_step if is_agents else None,
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below headings: aligned to fit a terminal, and in a pipe whole, with tabs between the cells.

    An id is a `UUID`, of which a terminal has the end; a tuple is a cell of several parts. Where there is no row,
    nothing is printed.
    """
    if not rows:
        return
    if sys.stdout.isatty():
        print_out(aligned(columns, rows, output_width()))
    else:
        for row in [list(columns), *_cells(rows, str)]:
            print_out("\t".join(row))


def aligned(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> str:
    """Return rows as text for a terminal of this width."""
    return laid_out(columns, _cells(rows, lambda id_: short_id(str(id_))), width)


def _cells(rows: Sequence[Sequence[object]], shown: Callable[[UUID], str]) -> list[list[str]]:
    # Cleaned before they are measured, and in a pipe too, where a tab or a line end would forge a cell or a row.
    return [[visible(" ".join(_text(cell, shown).split())) for cell in row] for row in rows]


def _text(cell: object, shown: Callable[[UUID], str]) -> str:
    if isinstance(cell, UUID):
        return shown(cell)
    if isinstance(cell, tuple):
        return " ".join(_text(part, shown) for part in cell)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return "" if cell is None else str(cell)


def print_json(value: object) -> None:
    """Print JSON, indented; in ASCII where stdout cannot encode all of it, for which other escapes are no JSON."""
    print_out(json_text(value, is_ascii=not prints_unicode()))


def json_text(value: object, *, is_ascii: bool = False) -> str:
    """Serialize JSON, indented; what a reader would not see is escaped, which programs read as the same text."""
    text = json.dumps(value, indent=2, ensure_ascii=is_ascii, default=str)
    return replace_invisible(text, lambda character: json.dumps(character)[1:-1], keep="\n")
