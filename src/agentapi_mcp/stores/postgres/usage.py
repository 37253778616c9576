"""Usage in Postgres: whole days from their sums, the rest of a period from the ledger, under row-level security.

The sums of days are there three times: of everybody by what they used, of organisations without persons, and of persons
whatever they used; each question is asked where it finds the fewest rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Literal, LiteralString
from uuid import UUID

from typing_extensions import override

from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.usage.models import ReportedSums, UsageGroup, UsageRow, UsageRows, UsageSpan, UsageSums
from agentapi_mcp.core.usage.ports import UsageStore
from agentapi_mcp.stores.postgres.database import Connection, Database, Row

# What a statement reads: entries of the ledger, the sums of days, or those with the entries around them.
Part = Literal["entries", "days", "both"]
_BUCKETS, _DIGITS = 24, 12
_SUMMED: tuple[LiteralString, ...] = (
    *("turns", "errors", "unpriced", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost_nanos", "latency_ms", "latencies"),
    *("reported", "reported_input_tokens", "reported_output_tokens", "reported_nanos"),
)
_NAMES: LiteralString = ", ".join((*_SUMMED, "last_at"))
# Sums that fit are whole numbers: those of Postgres' `numeric` cost the program several times as much to read.
_UNBOUND = {"cost_nanos", "latencies", "reported_nanos"}
_SUMS: LiteralString = ", ".join(
    (
        *(f"sum(e.{name}) AS {name}" if name in _UNBOUND else f"sum(e.{name})::bigint AS {name}" for name in _SUMMED),
        "max(e.last_at) AS last_at",
    )
)
_OWN: LiteralString = "e.org_id = $1 AND e.person = (SELECT agentapi.own_person())"
_WHOLE: LiteralString = "e.org_id = $1"
# A day is written as in ISO 8601, whatever the DateStyle of the database: days are ordered by this text.
_IN_DAYS: dict[UsageGroup | None, LiteralString] = {
    None: "''",
    UsageGroup.AGENT: "e.agent",
    UsageGroup.MODEL: "e.model",
    UsageGroup.PROVIDER: "e.provider",
    UsageGroup.DAY: "to_char(e.day::timestamp, 'YYYY-MM-DD')",
    UsageGroup.MEMBER: "e.person::text",
}
_IN_LEDGER: dict[UsageGroup | None, LiteralString] = {
    None: "''",
    UsageGroup.AGENT: "e.agent",
    UsageGroup.MODEL: "coalesce(e.model_used, e.model, '')",
    UsageGroup.PROVIDER: "coalesce(e.provider, '')",
    UsageGroup.DAY: "to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    UsageGroup.MEMBER: "e.person::text",
    UsageGroup.SESSION: "e.session_id::text",
}
# As agentapi.enter adds an entry to its day; a bucket has its twelve digits as in agentapi.latencies_of.
_ENTRIES: LiteralString = """
SELECT e.key, e.agent, e.turns, e.errors, e.unpriced, e.input_tokens, e.output_tokens, e.cached_tokens,
       e.reasoning_tokens, e.cost_nanos, e.latency_ms,
       (e.turns || repeat('0', 12 * (e.bucket - 1)))::numeric AS latencies, e.reported,
       e.reported_input_tokens, e.reported_output_tokens, e.reported_nanos, e.last_at
  FROM (SELECT {key} AS key, e.agent, agentapi.latency_bucket(e.latency_ms) AS bucket,
               count(*) FILTER (WHERE e.kind = 'turn') AS turns,
               count(*) FILTER (WHERE e.kind = 'turn' AND e.outcome IN ('failed', 'interrupted')) AS errors,
               sum(e.unpriced) AS unpriced, sum(coalesce(e.input_tokens, 0)) AS input_tokens,
               sum(coalesce(e.output_tokens, 0)) AS output_tokens, sum(coalesce(e.cached_tokens, 0)) AS cached_tokens,
               sum(coalesce(e.reasoning_tokens, 0)) AS reasoning_tokens, sum(coalesce(e.cost_nanos, 0)) AS cost_nanos,
               sum(coalesce(e.latency_ms, 0)) FILTER (WHERE e.kind = 'turn') AS latency_ms,
               count(*) FILTER (WHERE e.kind = 'reported') AS reported,
               sum(coalesce(e.reported_input_tokens, 0)) AS reported_input_tokens,
               sum(coalesce(e.reported_output_tokens, 0)) AS reported_output_tokens,
               sum(coalesce(e.reported_nanos, 0)) AS reported_nanos, max(e.at) AS last_at
          FROM agentapi.ledger e WHERE {whose} AND e.at >= {begin} AND e.at < {end}
         GROUP BY 1, 2, 3) e
"""
# Without agents, which are told apart by a second look: at the index alone, or where the period is open, at when each
# agent was used last.
_MEMBERS: LiteralString = """
SELECT e.key::text AS key, e.agent, {names} FROM (
       SELECT e.person AS key, NULL::text AS agent, {sums}
         FROM agentapi.usage_daily_of_persons e WHERE {days} GROUP BY 1
        UNION ALL
       SELECT e.person, e.agent, {nothing} FROM {agents} GROUP BY e.person, e.agent) AS e
"""
_AGENTS: LiteralString = "agentapi.usage_daily e WHERE {days}"
_AGENTS_SINCE: LiteralString = "agentapi.usage_agents_of_persons e WHERE e.org_id = $1 AND e.last_day >= $2::date"


def _entries(by: UsageGroup | None, whose: LiteralString, begin: LiteralString, end: LiteralString) -> LiteralString:
    return (
        _ENTRIES.replace("{key}", _IN_LEDGER[by])
        .replace("{whose}", whose)
        .replace("{begin}", begin)
        .replace("{end}", end)
    )


def _days(by: UsageGroup | None, whose: LiteralString, *, is_open: bool) -> LiteralString:
    days: LiteralString = f"{whose} AND e.day >= $2::date AND e.day < $3::date"
    if by is UsageGroup.MEMBER and whose == _WHOLE:
        nothing: LiteralString = ", ".join((*("0" for _ in _SUMMED), "NULL::timestamptz"))
        return (
            _MEMBERS.replace("{agents}", _AGENTS_SINCE if is_open else _AGENTS)
            .replace("{names}", _NAMES)
            .replace("{sums}", _SUMS)
            .replace("{nothing}", nothing)
            .replace("{days}", days)
        )
    if (
        by is UsageGroup.DAY and whose == _OWN
    ):  # of one person there are few rows of a day and an agent to add up before
        names: LiteralString = ", ".join(f"e.{name}" for name in (*_SUMMED, "last_at"))
        return f"SELECT {_IN_DAYS[by]} AS key, e.agent, {names} FROM agentapi.usage_daily e WHERE {days}"  # noqa: S608  # literals
    table: LiteralString = "usage_daily_of_organizations" if whose == _WHOLE else "usage_daily"
    return (
        f"SELECT {_IN_DAYS[by]} AS key, e.agent, {_SUMS} "  # noqa: S608  # literals
        f"FROM agentapi.{table} e WHERE {days} GROUP BY 1, 2"
    )


def _statement(by: UsageGroup | None, whose: LiteralString, part: Part, *, is_open: bool) -> LiteralString:
    """Return a statement: its parameters are the organisation, the bounds of the period's parts, how many groups."""
    limit: LiteralString = "$4"
    if part == "entries":
        parts = _entries(by, whose, "$2::timestamptz", "$3::timestamptz")
    else:
        parts = _days(by, whose, is_open=is_open)
    if part == "both":
        limit = "$8"
        head = _entries(by, whose, "$4::timestamptz", "$5::timestamptz")
        tail = _entries(by, whose, "$6::timestamptz", "$7::timestamptz")
        parts = f"{parts} UNION ALL {head} UNION ALL {tail}"
    order = "key DESC" if by is UsageGroup.DAY else "cost_nanos DESC, turns DESC, key"
    return (
        f"WITH parts AS MATERIALIZED ({parts}), "  # noqa: S608  # literals
        f"groups AS MATERIALIZED (SELECT e.key, count(DISTINCT e.agent) AS agents, {_SUMS} FROM parts e GROUP BY 1), "
        f"most AS (SELECT g.* FROM groups g ORDER BY {order} LIMIT {limit}) "
        "SELECT NULL AS key, (SELECT count(*) FROM groups) AS groups, "
        f"(SELECT count(DISTINCT p.agent) FROM parts p) AS agents, {_SUMS} FROM groups e "
        f"UNION ALL SELECT m.key, 0, m.agents, {_NAMES} FROM most m"
    )


def _all_statements() -> Iterator[tuple[tuple[UsageGroup | None, bool, Part, bool], LiteralString]]:
    for by in (None, *UsageGroup):
        parts: tuple[Part, ...] = ("entries",) if by is UsageGroup.SESSION else ("days", "both")
        for whole, part, is_open in product((False, True), parts, (False, True)):
            yield (by, whole, part, is_open), _statement(by, _WHOLE if whole else _OWN, part, is_open=is_open)


_STATEMENTS = dict(_all_statements())
_TITLES: LiteralString = (
    "SELECT id::text AS id, title FROM public.chat_sessions WHERE id = ANY($1::uuid[]) AND user_id = $2"
)
_PEOPLE: LiteralString = "SELECT person::text AS person, user_id::text AS id, email FROM agentapi.people_of_usage_1($1)"


def statement_of(
    org_id: OrgId, span: UsageSpan, by: UsageGroup | None, *, whole: bool, limit: int
) -> tuple[LiteralString, tuple[object, ...]]:
    """Return the statement that adds up usage, and its arguments."""
    # What is not asked for need not be planned: the entries are in a table for each month.
    edges = (span.since, span.head_ends, span.tail_begins, span.until)
    has_edges = span.since < span.head_ends or span.tail_begins < span.until
    part: Part = "entries" if by is UsageGroup.SESSION else "both" if has_edges else "days"
    bounds: dict[Part, tuple[object, ...]] = {
        "entries": (span.since, span.until),
        "days": span.days,
        "both": (*span.days, *edges),
    }
    return _STATEMENTS[by, whole, part, span.is_open], (org_id, *bounds[part], limit)


class PostgresUsage(UsageStore):
    """Every statement names whose usage it reads, by which an index finds it; the policies are a net."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def sums(
        self, principal: Principal, span: UsageSpan, by: UsageGroup | None, *, whole: bool, limit: int
    ) -> UsageRows:
        sql, arguments = statement_of(principal.org_id, span, by, whole=whole, limit=limit)
        # Of one person, one index serves whatever the period is.
        async with self._database.as_principal(principal, plan_once=not whole) as connection:
            total, *found = await connection.fetch(sql, *arguments)
            keys = [row["key"] for row in found]
            match by:
                case None:
                    rows: tuple[UsageRow, ...] = ()
                case UsageGroup.SESSION:
                    titles = await connection.fetch(_TITLES, [UUID(key) for key in keys], principal.user_id)
                    rows = _labelled(found, {row["id"]: (row["id"], row["title"]) for row in titles})
                case UsageGroup.MEMBER:
                    rows = _labelled(found, await _people(connection, keys), hides_others=True)
                case _:
                    rows = tuple(UsageRow(key=row["key"], sums=sums_of(row)) for row in found)
        return UsageRows(total=sums_of(total), rows=rows, groups=0 if by is None else total["groups"])


async def _people(connection: Connection, keys: list[str]) -> Mapping[str, tuple[str, str | None]]:
    found = await connection.fetch(_PEOPLE, [UUID(key) for key in keys])
    return {row["person"]: (row["id"], row["email"]) for row in found}


def _labelled(
    rows: Sequence[Row], known: Mapping[str, tuple[str, str | None]], *, hides_others: bool = False
) -> tuple[UsageRow, ...]:
    """Put keys and labels to rows; one that nobody knows has its own key or, where that says nothing, none."""
    named = ((row, known.get(row["key"], (None if hides_others else row["key"], None))) for row in rows)
    return tuple(UsageRow(key=key, label=label, sums=sums_of(row)) for row, (key, label) in named)


def _buckets(latencies: Decimal | None) -> tuple[int, ...]:
    """Read a histogram: as text, since dividing numbers of 288 digits takes ten times as long."""
    digits = "0" if latencies is None else format(latencies, "f")
    counts = [int(digits[max(0, end - _DIGITS) : end]) for end in range(len(digits), 0, -_DIGITS)]
    return (*counts, *(0,) * (_BUCKETS - len(counts)))


def sums_of(row: Row) -> UsageSums:
    """Return the sums of a row; a row of another statement has no `latencies`, and nothing that was reported."""

    def count(name: str) -> int:
        return int(row.get(name) or 0)

    return UsageSums(
        turns=count("turns"),
        errors=count("errors"),
        unpriced=count("unpriced"),
        input_tokens=count("input_tokens"),
        output_tokens=count("output_tokens"),
        cached_tokens=count("cached_tokens"),
        reasoning_tokens=count("reasoning_tokens"),
        cost_nanos=count("cost_nanos"),
        agents=count("agents"),
        busy=timedelta(milliseconds=count("latency_ms")),
        last_at=row["last_at"],
        latencies=_buckets(row.get("latencies")),
        reported=ReportedSums(
            interactions=count("reported"),
            input_tokens=count("reported_input_tokens"),
            output_tokens=count("reported_output_tokens"),
            cost_nanos=count("reported_nanos"),
        ),
    )
