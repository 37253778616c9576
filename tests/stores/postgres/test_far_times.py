"""Rows of other programs whose dates no `datetime` can hold: what can be shown is shown, and what cannot is said."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.far_times import FIRST, LAST, FarTime, microseconds_of, time_of
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.core.conversations.models import TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.identity.cursors import encode_cursor
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.edges.mcp.options import McpOptions
from agentapi_mcp.edges.mcp.server.server import create_server
from agentapi_mcp.presentation.transcripts import render_json, render_markdown
from agentapi_mcp.stores.postgres.database import connect
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.positions import cursor_before, read_position
from agentapi_mcp.web.application import WebOptions
from tests.conftest import DatabaseUrls
from tests.stores.postgres.test_existing_sessions import program
from tests.support.connect import call
from tests.support.edges import OpenServices, mcp_application, serve_app
from tests.support.peers.openai import OpenAIPeer
from tests.support.supabase import ACME, ALICE, APP, OLD_SESSION, Project

DATES = {
    "-infinity": "no date",
    "4713-01-01 00:00:00+00 BC": "before the year 1",
    "0044-03-15 12:00:00+00 BC": "before the year 1",
    "10000-01-01 00:00:00+00": "after the year 9999",
    "290000-01-01 00:00:00+00": "after the year 9999",
    "infinity": "no date",
}
SPOIL = """
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT a.attrelid::regclass AS t, a.attname FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
              WHERE r.relnamespace = 'public'::regnamespace AND r.relkind = 'r'
                AND a.atttypid = 'timestamptz'::regtype LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER; UPDATE %s SET %I = %L; ALTER TABLE %s ENABLE TRIGGER USER',
                       c.t, c.t, c.attname, current_setting('test.date'), c.t);
    END LOOP;
END
$$
"""
ANN = Principal(UserId(ALICE), OrgId(ACME))


@pytest.mark.parametrize(("date", "words"), DATES.items())
async def test_whatever_dates_other_programs_write_everything_is_read(
    date: str, words: str, deployed: Project, tmp_path: Path
) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    await deployed.run(f"SET test.date = '{date}'; {SPOIL}")
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        listed = await server.sessions.list_(server.principal)
        transcript = await server.sessions.transcript(server.principal, str(OLD_SESSION))
        newest = await server.sessions.transcript(server.principal, str(OLD_SESSION), limit=2)
        older = await server.sessions.transcript(server.principal, str(OLD_SESSION), limit=9, cursor=newest.older)
        asked = ChatRequest(message="And the oxidiser?", session_id=str(OLD_SESSION))
        turn = await server.turns.chat(server.principal, asked, wait=timedelta(seconds=25))
        turns = await server.turns.recent(server.principal, 10)
        after = await server.sessions.transcript(server.principal, str(OLD_SESSION))
        edge = mcp_application(create_server(OpenServices(server), McpOptions()), WebOptions())
        async with serve_app(edge) as place, Client(streamable_http_client(place.mcp), mode="legacy") as client:
            for tool in ("list_sessions", "list_agents", "list_models", "get_health"):
                answer = await call(client, tool)
                assert not answer.is_error, (tool, answer.content)
            answer = await call(client, "get_transcript", session_id=str(OLD_SESSION))
            assert not answer.is_error, answer.content
    assert len(listed.items) == 2
    assert (*older.messages, *newest.messages) == transcript.messages
    assert len(transcript.messages) == 6
    assert words in render_markdown(transcript)
    assert "Kerosene." in render_markdown(transcript)
    assert json.dumps(render_json(transcript))
    assert turn.status is TurnStatus.COMPLETED
    assert [each.id for each in turns] == [turn.id]
    assert {"And the oxidiser?", turn.reply} <= {m.content for m in after.messages}


async def test_pages_of_sessions_go_on_through_dates_that_cannot_be_shown(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    dates = [*DATES, "294276-12-31 23:59:59.999999+00"]  # the last one
    for n, date in enumerate(dates):
        await deployed.run(
            "INSERT INTO public.chat_sessions (user_id, org_id, title, created_at) "  # noqa: S608  # ours
            f"SELECT '{ALICE}', '{ACME}', '{n}', '{date}' FROM generate_series(1, 3)"
        )
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        seen: list[UUID] = []
        cursor = None
        for _ in range(3 * len(dates) + 2):
            page = await server.sessions.list_(server.principal, limit=1, cursor=cursor)
            seen += [each.id for each in page.items]
            cursor = page.next_cursor
    assert cursor is None
    assert len(set(seen)) == len(seen) == 3 * len(dates) + 2


async def test_a_session_without_a_date_is_read_by_its_id(deployed: Project, tmp_path: Path) -> None:
    await migrate(deployed.owner, program="0.1.0", grant_to=APP)
    await deployed.run("UPDATE public.chat_sessions SET created_at = NULL, last_message_at = NULL")
    async with OpenAIPeer() as peer, program(deployed, tmp_path, peer) as server:
        transcript = await server.sessions.transcript(server.principal, str(OLD_SESSION))
    assert "begun no date" in render_markdown(transcript)


@given(st.integers(-(2**63), 2**63 - 1))
@example(-(2**63))
@example(2**63 - 1)
@example(microseconds_of(datetime.max.replace(tzinfo=UTC)) + 1)
@example(microseconds_of(datetime.min.replace(tzinfo=UTC)) - 1)
@example(microseconds_of(datetime.min.replace(tzinfo=UTC)))
def test_every_time_of_postgres_is_read_and_sent_back_exactly(microseconds: int) -> None:
    at = time_of(microseconds)
    assert microseconds_of(at) == microseconds
    assert FIRST <= at <= LAST
    assert format(at, "%Y-%m-%d")
    id_ = UUID(int=7)
    again, same = read_position(cursor_before(at, id_, "x", ANN), "x", ANN)
    assert (microseconds_of(again), same) == (microseconds, id_)


async def test_times_with_other_zones_and_of_arrays_are_those_of_postgres(database_urls: DatabaseUrls) -> None:
    connection = await connect(database_urls.owner)
    try:
        moment = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC).astimezone()
        text = await connection.fetchval("SELECT ($1::timestamptz AT TIME ZONE 'UTC')::text", moment)
        assert text == "2024-02-29 23:59:59.123456"
        assert await connection.fetchval("SELECT $1::timestamptz", moment) == moment
        both = await connection.fetchval("SELECT ARRAY['290000-01-01'::timestamptz, NULL]")
        assert isinstance(both[0], FarTime)
        assert await connection.fetchval("SELECT $1::timestamptz > '9999-12-31'", both[0])
    finally:
        await connection.close()


@pytest.mark.parametrize("position", ["us", "1.5us", f"{2**63}us", "-us", "xus"])
def test_a_made_up_position_is_refused(position: str) -> None:
    with pytest.raises(InvalidRequestError):
        read_position(encode_cursor("x", ANN, (position, str(UUID(int=1)))), "x", ANN)
