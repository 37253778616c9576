"""`agentapi-mcp export`: everything that is one's own, to read elsewhere."""

import asyncio
import re
import zipfile
from pathlib import Path

import click

from agentapi_mcp.app.archives import new_archive
from agentapi_mcp.base.paging import read_all
from agentapi_mcp.cli.commands.accounts import account_json
from agentapi_mcp.cli.commands.keys import key_json
from agentapi_mcp.cli.commands.tokens import token_json
from agentapi_mcp.cli.consent import ask, yes_option
from agentapi_mcp.cli.found_sessions import whole_transcript
from agentapi_mcp.cli.options import FILE, json_option
from agentapi_mcp.cli.outputs import json_text, print_json, run
from agentapi_mcp.cli.progress import progress
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.preferences import preferences_out
from agentapi_mcp.presentation.transcripts import render_json, render_markdown

_AT_ONCE = 200
_LONGEST = 40
_ABOUT = (
    "What agentapi-mcp keeps of yours: each conversation as Markdown and as JSON, with the bill of each answer, and\n"
    "your tokens, keys, accounts and preferences, without what is secret in them.\n"
)


@click.command()
@click.argument("file", type=FILE)
@yes_option
@json_option
def export(file: Path, *, yes: bool, as_json: bool) -> None:
    """Write everything of yours to FILE, a ZIP archive: conversations, bills, tokens, keys, preferences."""
    run(lambda services, _: _export(services, file, yes=yes, as_json=as_json))


async def _export(services: Services, file: Path, *, yes: bool, as_json: bool) -> None:
    if await asyncio.to_thread(file.exists):
        ask(f"{file} is there already. Write over it?", yes=yes)
    mine = services.principal
    sessions = await read_all(lambda cursor: services.sessions.list_(mine, cursor=cursor, limit=_AT_ONCE))
    lists: dict[str, list[object]] = {
        "tokens": [token_json(token) for token in await services.personal_tokens.list_(mine)],
        "keys": [key_json(key) for key in await services.api_keys.list_(mine)],
        "accounts": [account_json(account) for account in await services.accounts.list_(mine)],
        "preferences": [preferences_out(one).model_dump(mode="json") for one in await services.clients.list_(mine)],
    }
    with new_archive(file) as archive, progress("Exporting") as bar:
        await asyncio.to_thread(_put, archive, "README.txt", _ABOUT)
        for number, session in enumerate(sessions, 1):
            await _put_session(services, archive, session)
            bar.show(number, len(sessions), session.title or "")
        for name, values in lists.items():
            await asyncio.to_thread(_put, archive, f"{name}.json", json_text(values) + "\n")
    counts = {"sessions": len(sessions), **{name: len(values) for name, values in lists.items()}}
    if as_json:
        print_json({"file": str(file), **counts})
        return
    print_out(f"{file}: {', '.join(f'{count} {name}' for name, count in counts.items())}.")
    print_err("Every message is in it in clear text. `agentapi-mcp restore` does not read it: that is for `backup`.")


async def _put_session(services: Services, archive: zipfile.ZipFile, session: Session) -> None:
    transcript = await whole_transcript(services, str(session.id))
    name = f"sessions/{session.created_at:%Y-%m-%d}-{_slug(session.title or 'untitled')}-{session.id}"
    await asyncio.to_thread(_put, archive, f"{name}.md", click.unstyle(render_markdown(transcript)))
    await asyncio.to_thread(_put, archive, f"{name}.json", json_text(render_json(transcript)) + "\n")


def _put(archive: zipfile.ZipFile, name: str, text: str) -> None:
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o600 << 16
    archive.writestr(member, text)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:_LONGEST].rstrip("-") or "untitled"
