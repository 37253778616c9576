"""Export: everything that is one's own, in all of one's organisations, conversation by conversation."""

import re
import shutil
import tempfile
import textwrap
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import click

from agentapi_mcp.app.archives import named_failures, new_archive
from agentapi_mcp.base.errors import NotFoundError, PermissionDeniedError
from agentapi_mcp.cli.outputs import json_text
from agentapi_mcp.cli.progress import Progress
from agentapi_mcp.core.access.models import OwnOrganization
from agentapi_mcp.core.conversations.models import Session
from agentapi_mcp.core.conversations.session_facts import EVERY_SESSION
from agentapi_mcp.core.identity.principals import Action, Principal, refusal
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.credentials import account_json, key_json, token_json
from agentapi_mcp.presentation.preferences import preferences_out
from agentapi_mcp.presentation.transcripts import head_markdown, message_json, message_markdown, render_json

_AT_ONCE = 200
_LONGEST = 40
_IN_MEMORY = 1 << 20  # bytes of a conversation; a longer one is gathered in a file without a name
_ABOUT = (
    "What agentapi-mcp keeps of yours: each conversation as Markdown and as JSON, with the bill of each answer, and\n"
    "your tokens, keys, accounts and preferences, without what is secret in them.\n"
)


@dataclass(slots=True)
class Exported:
    """What was written; `skipped` says what was not, and why."""

    counts: dict[str, int]
    skipped: list[str] = field(default_factory=list[str])


async def export(services: Services, file: Path, bar: Progress) -> Exported:
    """Write the archive.

    Raises:
        InvalidRequestError: it cannot be written.
    """
    own = await services.memberships.own(services.principal)
    done = Exported({"organizations": len(own), "sessions": 0})
    readable = [one for one in own if _may_read(one, done)]
    total = 0
    for one in readable:
        total += len([session.id async for session in _sessions(services, one)])
    with new_archive(file) as archive:
        archive.writestr(_member("README.txt"), _ABOUT)
        for one in readable:
            async for session in _sessions(services, one):
                bar.show(done.counts["sessions"], total, session.title or "")
                with named_failures(file):
                    await _put_session(_Place(services, archive, file, one), session, done)
        for name, values in (await _lists(services, own, done)).items():
            archive.writestr(_member(f"{name}.json"), f"{json_text(values)}\n")
            done.counts[name] = len(values)
    return done


@dataclass(frozen=True, slots=True)
class _Place:
    services: Services
    archive: zipfile.ZipFile
    file: Path
    own: OwnOrganization


def _may_read(one: OwnOrganization, done: Exported) -> bool:
    refused = refusal(one.principal, Action.READ_SESSIONS)
    if refused is not None:
        done.skipped.append(f"the conversations in {one.name}, which you may not read")
    return refused is None


async def _sessions(services: Services, one: OwnOrganization) -> AsyncGenerator[Session]:
    """Yield the sessions of an organisation, of which a page is in memory."""
    cursor = None
    while True:
        page = await services.sessions.list_(one.principal, EVERY_SESSION, cursor=cursor, limit=_AT_ONCE)
        for session in page.items:
            yield session
        if page.next_cursor is None:
            return
        cursor = page.next_cursor


async def _put_session(place: _Place, session: Session, done: Exported) -> None:
    """Write a conversation, which is gathered first: it may be deleted meanwhile."""
    name = f"sessions/{session.created_at:%Y-%m-%d}-{_slug(session.title or 'untitled')}-{session.id}"
    with _gathered(place.file) as markdown, _gathered(place.file) as json:
        try:
            await _gather(place, str(session.id), markdown, json)
        except NotFoundError:
            done.skipped.append(f"a conversation that was deleted meanwhile ({session.id})")
            return
        for text, ending in ((markdown, "md"), (json, "json")):
            text.seek(0)
            with place.archive.open(_member(f"{name}.{ending}"), "w", force_zip64=True) as member:
                shutil.copyfileobj(text, member)
    done.counts["sessions"] += 1


async def _gather(place: _Place, session_id: str, markdown: IO[bytes], json: IO[bytes]) -> None:
    """Write both texts, of whose messages a page is in memory."""
    read = partial(place.services.sessions.transcript, place.own.principal, session_id)
    newest = await read()
    earlier = list[str]()
    older = newest.older
    while older is not None:
        earlier.append(older)
        older = (await read(cursor=older)).older
    organization = {"id": str(place.own.principal.org_id), "name": place.own.name}
    head = {"organization": organization, "session": render_json(newest)["session"]}
    markdown.write(click.unstyle(head_markdown(newest.session)).encode())
    json.write(json_text(head).removesuffix("\n}").encode())
    json.write(b',\n  "messages": [')
    between = ""
    for cursor in [*reversed(earlier), None]:
        for message in newest.messages if cursor is None else (await read(cursor=cursor)).messages:
            markdown.write(click.unstyle(message_markdown(message)).encode())
            json.write(f"{between}\n{textwrap.indent(json_text(message_json(message)), '    ')}".encode())
            between = ","
    json.write(b"\n  ]\n}\n")


async def _lists(services: Services, own: Sequence[OwnOrganization], done: Exported) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {"tokens": [], "keys": [], "accounts": [], "preferences": []}
    for one in own:
        readers: dict[str, Callable[[Principal], Awaitable[list[dict[str, object]]]]] = {
            "tokens": partial(_tokens, services),
            "keys": partial(_keys, services),
            "preferences": partial(_preferences, services),
        }
        if one.principal == services.principal:  # an account is its user's in all of their organisations
            readers["accounts"] = partial(_accounts, services)
        for name, read in readers.items():
            try:
                found[name] += [{**value, "organization": one.name} for value in await read(one.principal)]
            except PermissionDeniedError:
                done.skipped.append(f"the {name} in {one.name}, which you may not read")
    return found


async def _tokens(services: Services, principal: Principal) -> list[dict[str, object]]:
    return [token_json(token) for token in await services.personal_tokens.list_(principal)]


async def _keys(services: Services, principal: Principal) -> list[dict[str, object]]:
    return [key_json(key) for key in await services.api_keys.list_(principal)]


async def _accounts(services: Services, principal: Principal) -> list[dict[str, object]]:
    return [account_json(account) for account in await services.accounts.list_(principal)]


async def _preferences(services: Services, principal: Principal) -> list[dict[str, object]]:
    return [preferences_out(one).model_dump(mode="json") for one in await services.clients.list_(principal)]


def _gathered(file: Path) -> "tempfile.SpooledTemporaryFile[bytes]":
    return tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(file.parent))


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o600 << 16
    return member


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:_LONGEST].rstrip("-") or "untitled"
