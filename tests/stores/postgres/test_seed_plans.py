"""How the seeds' views are read in a big organisation: whoever reads them touches few rows of others, or none."""

import json
from typing import Any

import asyncpg
import pytest

from agentapi_mcp.base.ids import OrgId, UserId, new_id
from tests.conftest import DatabaseUrls
from tests.stores.postgres.test_seed_names import ANALYTICS, Outsiders
from tests.stores.postgres.test_usage_plans import nodes

pytestmark = pytest.mark.timeout(180)  # tens of thousands of rows are filled in
USERS, SESSIONS = 100, 60
OWN = SESSIONS * 10
# A hundred members with sixty sessions of two turns each, in the last days; of the one who reads, ten times as many.
FILL = f"""
INSERT INTO public.organizations (id, name) VALUES (:org, 'o');
ALTER TABLE agentapi.turns DISABLE TRIGGER USER;
ALTER TABLE agentapi.session_facts DISABLE TRIGGER USER;
SELECT agentapi.keep_partitions(now() - interval '1 month');
CREATE TEMP TABLE who AS SELECT CASE n WHEN 1 THEN :ann ELSE gen_random_uuid() END AS user_id,
       md5('p' || n)::uuid AS person, n FROM generate_series(1, {USERS}) n;
INSERT INTO public.profiles (id) SELECT user_id FROM who;
INSERT INTO public.organization_members (organization_id, user_id) SELECT :org, user_id FROM who;
INSERT INTO agentapi.people (user_id, person) SELECT user_id, person FROM who;
INSERT INTO public.chat_sessions (id, user_id, org_id, created_at, last_message_at)
SELECT gen_random_uuid(), user_id, :org, at, at
  FROM who, generate_series(1, CASE n WHEN 1 THEN {OWN} ELSE {SESSIONS} END) k,
       LATERAL (SELECT now() - k * interval '1 hour' AS at) t;
INSERT INTO agentapi.session_facts (session_id, user_id, org_id)
SELECT id, user_id, org_id FROM public.chat_sessions WHERE org_id = :org;
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint, status,
    created_at, ended_at, cost_usd)
SELECT gen_random_uuid(), s.id, s.user_id, s.org_id, gen_random_uuid(), 'a', 'b', '', 'completed', s.created_at,
       s.created_at, 0.001 FROM public.chat_sessions s, generate_series(1, 2) WHERE org_id = :org;
INSERT INTO agentapi.ledger (at, kind, org_id, person, session_id, turn_id, agent, backend, provider, input_tokens,
    output_tokens, cost_nanos, unpriced, billing_may_go_on, latency_ms, outcome)
SELECT t.ended_at, 'turn', t.org_id, w.person, t.session_id, t.id, 'a' || get_byte(uuid_send(t.id), 0) % 10, 'b', 'p',
       1, 1, 1000, 0, false, 10, 'completed'
  FROM agentapi.turns t JOIN who w USING (user_id);
INSERT INTO agentapi.usage_daily (org_id, day, person, agent, model, provider, interaction_type, turns, errors,
    unpriced, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_nanos, latency_ms, latency, last_at,
    reported, reported_input_tokens, reported_output_tokens, reported_nanos)
SELECT org_id, (at AT TIME ZONE 'UTC')::date, person, agent, 'm', 'p', '', count(*), 0, 0, sum(input_tokens),
       sum(output_tokens), 0, 0, sum(cost_nanos), sum(latency_ms), array_fill(1, ARRAY[24]), max(at), 0, 0, 0, 0
  FROM agentapi.ledger WHERE org_id = :org GROUP BY 1, 2, 3, 4;
ALTER TABLE agentapi.turns ENABLE TRIGGER USER;
ALTER TABLE agentapi.session_facts ENABLE TRIGGER USER;
ANALYZE public.chat_sessions, agentapi.session_facts, agentapi.turns, agentapi.ledger, agentapi.usage_daily;
"""  # noqa: S608  # numbers of the tests
TABLES: tuple[str, ...] = ("chat_sessions", "session_facts", "turns", "usage_daily", "ledger")


def rows_read(plan: dict[str, Any]) -> dict[str, float]:
    """Return how many rows of each growing table were looked at."""
    read = dict[str, float].fromkeys(TABLES, 0.0)
    for node in nodes(plan):
        relation = str(node.get("Relation Name", ""))
        for table in TABLES:
            if relation == table or (table == "ledger" and relation.startswith("ledger_")):
                looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                read[table] += (looked_at + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
    return read


# Statements, and how many rows of each table they may read: of others none, and of her own turns those that are shown.
READ = (
    ("SELECT * FROM recent_interactions WHERE user_id = auth.uid() LIMIT 20", (OWN + 20, OWN, 320, 0, 0)),
    ("SELECT * FROM recent_interactions LIMIT 20", (OWN + 20, OWN, 320, 0, 0)),
    (
        "SELECT title, total_cost FROM ai_interactions WHERE started_at > now() - interval '10.5 hours'",
        (OWN, OWN, 40, 0, 0),
    ),
    (ANALYTICS.rstrip("\n;"), (0, 0, 0, OWN, OWN * 6)),
    ("SELECT date, total_cost FROM ai_usage_stats WHERE date = (now() AT TIME ZONE 'UTC')::date", (0, 0, 0, 10, 0)),
    ("SELECT * FROM agent_metrics", (0, 0, 0, OWN, 0)),
    ("SELECT * FROM agent_metrics WHERE day >= CURRENT_DATE - 1", (0, 0, 0, 30, 0)),
)


@pytest.mark.usefixtures("database")
async def test_a_member_of_a_big_organisation_reads_few_rows(database_urls: DatabaseUrls) -> None:
    org, ann = OrgId(new_id()), UserId(new_id())
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute(FILL.replace(":org", f"'{org}'::uuid").replace(":ann", f"'{ann}'::uuid"))
    finally:
        await owner.close()
    for sql, most in READ:
        async with Outsiders(database_urls.owner).be(ann) as connection:
            assert await connection.fetch(sql), sql
            plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"))[0]["Plan"]
        read = rows_read(plan)
        bounds = dict(zip(TABLES, most, strict=True))
        assert {table: rows for table, rows in read.items() if rows > bounds[table]} == {}, sql
