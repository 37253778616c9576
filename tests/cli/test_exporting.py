"""Everything of one's own, over a real database."""

import asyncio
import json
import threading
import tracemalloc
import zipfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr
from typing_extensions import override

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.cli.commands.export import contents
from agentapi_mcp.cli.exporting import export
from agentapi_mcp.cli.progress import Progress
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from tests.conftest import DatabaseUrls
from tests.support.filled import USER, fill

_CHAT = "INSERT INTO public.chat_sessions (id, user_id, org_id, title) VALUES ($1, $2, $3, $4)"
_MEMBER = """
INSERT INTO public.organization_members (organization_id, user_id, role, permissions) VALUES ($1, $2, 'member', $3)
"""
_KEY = """
INSERT INTO agentapi.user_api_keys (id, user_id, org_id, provider, name, sealed_key, key_id)
VALUES ($1, $2, $3, 'openai', $4, 'x', 'k')
"""
_ACCOUNT = """
UPDATE public.mcp_sessions SET oauth_data = '{"calendar": {"sealed": "eA==", "key_id": "k", "state": "connected",
    "scopes": [], "expires_at": null, "connected_at": "2026-01-01T00:00:00Z", "issued_at": "2026-01-01T00:00:00Z"}}'
 WHERE user_id = $1 AND session_id LIKE 'oauth/%'
"""
_MESSAGES = """
INSERT INTO public.chat_messages (session_id, role, content, created_at)
SELECT $1, 'user', format('%s %s', n, repeat('x', $3)), now() + n * interval '1 second' FROM generate_series(1, $2) AS n
"""


class Silent(Progress):
    """A bar that shows nothing."""

    def __init__(self) -> None:
        super().__init__("", is_lines=True)


@asynccontextmanager
async def opened(urls: DatabaseUrls, tmp_path: Path) -> AsyncGenerator[Services]:
    """Open the program on a database that has rows."""
    settings = Settings(home=tmp_path / "home", database_url=SecretStr(urls.app))
    async with open_app(settings, {}) as app:
        yield await app.services_provider.services()


async def execute(urls: DatabaseUrls, *statements: tuple[object, ...]) -> None:
    """Change the database behind the program's back."""
    connection = await asyncpg.connect(urls.owner)
    try:
        await connection.execute("SET row_security = off")
        for statement, *arguments in statements:
            await connection.execute(str(statement), *arguments)
    finally:
        await connection.close()


async def chats(urls: DatabaseUrls, org: UUID, *titles: str) -> list[UUID]:
    """Make conversations of the user's in an organisation."""
    ids = [UUID(str(new_id())) for _ in titles]
    await execute(urls, *((_CHAT, id_, UUID(USER), org, title) for id_, title in zip(ids, titles, strict=True)))
    return ids


async def organization(urls: DatabaseUrls, name: str, permissions: str = "{}") -> UUID:
    """Make an organisation that the user is in."""
    org = UUID(str(new_id()))
    user = UUID(USER)
    await execute(
        urls,
        ("INSERT INTO public.organizations (id, name) VALUES ($1, $2)", org, name),
        (_MEMBER, org, user, permissions),
        (_KEY, UUID(str(new_id())), user, org, f"key of {name}"),
    )
    return org


def written(file: Path) -> tuple[set[str], dict[str, object]]:
    """Return the titles in an archive with their organisations, and its lists."""
    with zipfile.ZipFile(file) as archive:
        dates = {entry.filename: datetime(*entry.date_time).astimezone() for entry in archive.infolist()}
        read = {name: json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")}
    chats = [value for name, value in read.items() if name.startswith("sessions/")]
    for name, value in read.items():
        expected = value["session"]["last_message_at"] if name.startswith("sessions/") else None
        at = datetime.now(UTC) if expected is None else datetime.fromisoformat(expected)
        assert abs(dates[name] - max(at, datetime(1980, 1, 2, tzinfo=UTC))) < timedelta(minutes=5)
    return {f"{each['session']['title']} in {each['organization']['name']}" for each in chats}, read


async def test_it_is_of_all_organisations_in_which_one_may_read(own_database: DatabaseUrls, tmp_path: Path) -> None:
    await fill(own_database.owner)
    file = tmp_path / "mine.zip"
    await chats(own_database, await organization(own_database, "Theirs"), "one", "two")
    denied = '{"agentapi": {"sessions:read": false}}'
    await chats(own_database, await organization(own_database, "Closed", denied), "three")
    await execute(own_database, (_ACCOUNT, UUID(USER)))
    left = await organization(own_database, "Left")
    await chats(own_database, left, "four")
    await execute(own_database, ("DELETE FROM public.organization_members WHERE organization_id = $1", left))
    async with opened(own_database, tmp_path) as services:
        done = await export(services, file, Silent())
    titles, read = written(file)
    assert titles == {"T in Ours", "one in Theirs", "two in Theirs"}
    assert done.counts == {
        "organizations": 3,
        "sessions": 3,
        "tokens": 1,
        "keys": 3,
        "accounts": 1,
        "preferences": 0,
    }
    assert done.skipped == ["the conversations in Closed, which you may not read"]
    keys = [as_object(key) for key in as_list(read["keys.json"])]
    assert {(key["name"], key["organization"]) for key in keys} == {
        ("mine", "Ours"),
        ("key of Theirs", "Theirs"),
        ("key of Closed", "Closed"),
    }


async def test_a_conversation_that_is_deleted_meanwhile_is_named(own_database: DatabaseUrls, tmp_path: Path) -> None:
    await fill(own_database.owner)
    file, org = tmp_path / "mine.zip", await organization(own_database, "Theirs")
    gone, stays = await chats(own_database, org, "gone", "stays")

    class Deleting(Silent):
        @override
        def show(self, done: int, total: int, detail: str) -> None:
            if detail == "gone":
                delete = execute(own_database, ("DELETE FROM public.chat_sessions WHERE id = $1", gone))
                thread = threading.Thread(target=asyncio.run, args=[delete])
                thread.start()
                thread.join()

    async with opened(own_database, tmp_path) as services:
        done = await export(services, file, Deleting())
    titles, read = written(file)
    assert titles == {"T in Ours", "stays in Theirs"}
    assert done.skipped == [f"a conversation that was deleted meanwhile ({gone})"]
    assert not any(str(gone) in name for name in read)
    assert any(str(stays) in name for name in read)


@pytest.mark.timeout(180)  # each allocation is counted
@pytest.mark.parametrize(("messages", "characters"), [(1_201, 10), (40, 500_000)])
async def test_a_long_conversation_is_whole_and_never_in_memory(
    messages: int, characters: int, own_database: DatabaseUrls, tmp_path: Path
) -> None:
    await fill(own_database.owner)
    file, org = tmp_path / "mine.zip", await organization(own_database, "Theirs")
    (long,) = await chats(own_database, org, "long")
    await execute(own_database, (_MESSAGES, long, messages, characters))
    async with opened(own_database, tmp_path) as services:
        tracemalloc.start()
        try:
            await export(services, file, Silent())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 14_000_000  # of 20 MB in two texts
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(f"{long}.json")]
        texts = [message["content"] for message in json.loads(archive.read(name))["messages"]]
        markdown = archive.read(name.replace(".json", ".md")).decode()
    assert [text.split()[0] for text in texts] == [str(number) for number in range(1, messages + 1)]
    assert {len(text.split()[1]) for text in texts} == {characters}
    assert markdown.count("\n## You") == messages


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "1 organization"),
        ({"sessions": 2, "preferences": 1}, "1 organization, 2 sessions and 1 MCP client"),
        ({"keys": 2, "accounts": 2, "preferences": 2}, "1 organization, 2 keys, 2 accounts and 2 MCP clients"),
    ],
)
def test_what_is_in_it_is_said_in_words(counts: dict[str, int], said: str) -> None:
    none = {"organizations": 1, "sessions": 0, "tokens": 0, "keys": 0, "accounts": 0, "preferences": 0}
    assert contents(none | counts) == said
