"""What the edges record: who asked, from where, what was refused; and never a message or a secret."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.testing.http import Steps
from tests.support.connect import LINKS, Link, call, connect, fields_of, open_edge
from tests.support.peers.openai import OpenAIPeer
from tests.web.test_oauth import ServerSetup, open_setup

COLUMNS = "action, outcome, via, client, address, request_id, target_kind, target_id, details::text AS details"
OF_SUBJECT = (
    f"SELECT {COLUMNS} FROM agentapi.audit_events JOIN agentapi.identities USING (user_id) "  # noqa: S608  # ours
    "WHERE subject = $1 ORDER BY at, audit_events.id"
)
OF_TARGET = f"SELECT {COLUMNS} FROM agentapi.audit_events WHERE target_id = $1"  # noqa: S608  # ours
OF_NOBODY = (
    f"SELECT {COLUMNS} FROM agentapi.audit_events "  # noqa: S608  # ours
    "WHERE org_id IS NULL AND request_id LIKE $1 ORDER BY at, id"
)


async def rows_of(home: Path, query: str, value: str) -> list[Mapping[str, str]]:
    """Read as the owner of the tables."""
    postgres = EmbeddedPostgres(home)
    urls = await asyncio.to_thread(postgres.ensure)
    connection = await asyncpg.connect(urls.owner_url)
    try:
        return [dict(row) for row in await connection.fetch(query, value)]
    finally:
        await connection.close()
        await asyncio.to_thread(postgres.release)


@pytest.mark.parametrize("link", ["http-2025", "http-2026", "sse-2025", "sse-2026"])
async def test_who_signs_in_and_chats_is_recorded_with_where_they_come_from(
    link: str, edge_home: Path, tmp_path: Path
) -> None:
    ann = f"ann-{new_id().hex}"
    async with open_setup(edge_home, tmp_path) as at, at.client(at.token(ann), link) as client:
        turn = fields_of(await call(client, "chat", agent="guide", message="what is this program?"))
        await call(client, "list_sessions")
    rows = await rows_of(edge_home, OF_SUBJECT, ann)
    assert [row["action"] for row in rows] == ["identity_linked", "sign_in", "turn_accepted", "turn_ended"]
    assert {(row["via"], row["address"], row["outcome"]) for row in rows} == {(at.issuer.issuer, "127.0.0.1", "ok")}
    assert {row["client"] for row in rows[1:]} == {"mcp 0.1.0"}
    assert {row["target_id"] for row in rows[2:]} == {turn["turn_id"]}
    assert '"agent": "guide"' in rows[-1]["details"]
    assert '"status": "completed"' in rows[-1]["details"]


@pytest.mark.parametrize("link", LINKS)
async def test_each_transport_says_which_client_asks(link: Link, edge_home: Path) -> None:
    async with (
        open_edge(edge_home, OpenAIPeer(pace=Steps())) as edge,
        connect(edge.server, link, name="IDE\x07\n") as it,
    ):
        message = f"{edge.tag} [[slow]] [[chunks2]]"
        turn = fields_of(await call(it, "chat", agent="droid", message=message, wait_seconds=0))
        await call(it, "cancel_turn", turn_id=turn["turn_id"])
    rows = await rows_of(edge_home, OF_TARGET, str(turn["turn_id"]))
    assert {row["action"] for row in rows} == {"turn_accepted", "turn_cancelled", "turn_ended"}
    assert {row["client"] for row in rows} == {"IDE 1.0"}
    assert {row["address"] for row in rows} == {None if link.startswith("stdio") else "127.0.0.1"}
    assert None not in {row["request_id"] for row in rows}


async def test_what_a_token_may_not_do_is_recorded_and_counted(edge_home: Path, tmp_path: Path) -> None:
    reader = f"reader-{new_id().hex}"
    async with open_setup(edge_home, tmp_path) as at, at.client(at.token(reader, scope="read")) as client:
        for _ in range(5):
            with pytest.raises(MCPError, match="lacks the scope 'chat'"):
                await call(client, "chat", agent="guide", message="hello")
    rows = await rows_of(edge_home, OF_SUBJECT, reader)
    refused = [row for row in rows if row["action"] == "permission_denied"]
    assert [(row["target_kind"], row["target_id"], row["outcome"]) for row in refused] == [
        ("tool", "chat", "refused")
    ] * 2
    assert '"needs": "chat"' in refused[0]["details"]
    assert '"count": 4' in refused[1]["details"]


async def test_what_may_not_be_read_is_recorded_outside_of_tools_as_well(edge_home: Path, tmp_path: Path) -> None:
    chatter = f"chatter-{new_id().hex}"
    async with open_setup(edge_home, tmp_path) as at, at.client(at.token(chatter, scope="chat")) as client:
        with pytest.raises(Exception, match="lacks the scope 'read'"):
            await client.list_resources()
    rows = await rows_of(edge_home, OF_SUBJECT, chatter)
    assert [(row["target_kind"], row["target_id"]) for row in rows if row["action"] == "permission_denied"] == [
        ("method", "resources/list")
    ]


async def test_a_refused_token_is_recorded_once_a_minute_and_a_missing_one_is_not(
    edge_home: Path, tmp_path: Path
) -> None:
    tag = new_id().hex
    async with open_setup(edge_home, tmp_path, newcomers="none") as at, httpx2.AsyncClient() as http:
        stranger = at.token("stranger")
        for number, token in enumerate(["a.b.c"] * 4 + [stranger] * 3):
            headers = {"authorization": f"Bearer {token}", "x-request-id": f"{tag}-{number}"}
            assert (await http.post(at.place.mcp, json={}, headers=headers)).status_code in {401, 403}
        for query in ("", "?access_token=a.b.c"):
            headers = {"x-request-id": f"{tag}-{query[1:7]}"}
            assert (await http.post(at.place.mcp + query, json={}, headers=headers)).status_code == 401
    rows = await rows_of(edge_home, OF_NOBODY, f"{tag}%")
    assert {(row["action"], row["outcome"], row["address"]) for row in rows} == {
        ("sign_in_refused", "refused", "127.0.0.1")
    }
    assert sorted(row["details"] for row in rows) == [
        '{"count": 2, "reason": "permission_denied"}',
        '{"count": 4, "reason": "not_authenticated"}',
        '{"reason": "not_authenticated"}',
        '{"reason": "permission_denied"}',
    ]


async def test_no_event_holds_a_message_or_a_secret(edge_home: Path, tmp_path: Path) -> None:
    canary, subject = f"canary{new_id().hex}", f"ann-{new_id().hex}"
    async with open_setup(edge_home, tmp_path) as at, httpx2.AsyncClient() as http:
        token = at.token(subject)
        await talk(at, token, canary)
        for headers in ({"authorization": f"Bearer {canary}"}, {"authorization": f"Basic {canary}"}):
            assert (await http.post(at.place.mcp, json={}, headers=headers)).status_code == 401
        assert (await http.post(f"{at.place.mcp}?access_token={canary}", json={})).status_code == 401
    everything = "SELECT e::text AS said FROM agentapi.audit_events e WHERE e::text LIKE $1"
    assert await rows_of(edge_home, everything, f"%{canary}%") == []
    for part in token.split("."):
        assert await rows_of(edge_home, everything, f"%{part}%") == []
    assert await rows_of(edge_home, OF_SUBJECT, subject) != []


async def talk(at: ServerSetup, token: str, canary: str) -> None:
    """Say something wherever one can."""
    async with at.client(token) as client:
        turn = fields_of(await call(client, "chat", agent="guide", message=canary, idempotency_key=canary))
        await call(client, "chat", agent="guide", message=canary, session_id=turn["session_id"], system_prompt=canary)
        for tool, arguments in (
            ("chat", {"agent": canary, "message": canary}),
            ("chat", {"agent": "guide", "model": canary, "message": canary}),
            ("get_turn", {"turn_id": canary}),
            ("cancel_turn", {"turn_id": canary}),
            ("list_sessions", {"query": canary, "agent": canary}),
        ):
            await call(client, tool, **arguments)
    async with at.client(at.token(f"reader-{new_id().hex}", scope="read", note=canary)) as reader:
        with pytest.raises(MCPError, match="lacks the scope 'chat'"):
            await call(reader, "chat", agent=canary, message=canary)
