"""`agentapi-mcp export`: everything that is one's own, to read elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.consent import ask, listed_words, yes_option
from agentapi_mcp.cli.options import FILE, json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.progress import progress
from agentapi_mcp.cli.signals import unwound_by_signals
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.services import Services

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import asyncio

    from agentapi_mcp.app import archives
    from agentapi_mcp.cli import exporting
    from agentapi_mcp.settings import Settings
else:
    archives = LazyModule("agentapi_mcp.app.archives")
    exporting = LazyModule("agentapi_mcp.cli.exporting")
    asyncio = LazyModule("asyncio")

_COUNTED = {
    "organizations": "organization",
    "sessions": "session",
    "tokens": "token",
    "keys": "key",
    "accounts": "account",
    "preferences": "MCP client",
}


@click.command()
@click.argument("file", type=FILE)
@yes_option
@json_option
def export(file: Path, *, yes: bool, as_json: bool) -> None:
    """Write everything of yours to FILE, a ZIP archive: conversations, bills, tokens, keys, preferences."""
    run(lambda services, settings: _export(services, settings, file, yes=yes, as_json=as_json))


async def _export(services: Services, settings: Settings, file: Path, *, yes: bool, as_json: bool) -> None:
    archives.check_place(file)
    if await asyncio.to_thread(file.exists):
        ask(f"{file} is there already. Write over it?", yes=yes)
    with unwound_by_signals(), progress("Exporting", is_lines=settings.screen_reader) as bar:
        done = await exporting.export(services, file, bar)
    if as_json:
        print_json({"file": str(file), **done.counts, "skipped": done.skipped})
        return
    print_out(f"{file}: {contents(done.counts)}.")
    for what in done.skipped:
        print_err(f"Not in it: {what}.")
    print_err("Every message is in it in clear text. `agentapi-mcp restore` does not read it: that is for `backup`.")


def contents(counts: Mapping[str, int]) -> str:
    """Return in words what an export holds: how many of each, without what there is none of."""
    return listed_words([number_of(counts[name], word) for name, word in _COUNTED.items() if counts[name]])
