"""What a run leaves behind: what clients were told, what the database holds, and what the provider wrote down."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import asyncpg

# Every message of the harness begins with its marker, and the provider repeats it at the beginning of its answer.
_MARKER = re.compile(r"#T:([0-9a-f]+)")
_ECHO = re.compile(r"ECHO:([0-9a-f]+)")
# `reply` is the assistant's message that the turn names.
_TURNS = """
SELECT t.id::text, t.session_id::text, t.status, t.end_reason, u.content AS message, a.content AS reply,
       extract(epoch FROM t.created_at)::float8 AS created_at, extract(epoch FROM t.ended_at)::float8 AS ended_at,
       t.asked_at IS NOT NULL AS is_asked, t.input_tokens, t.output_tokens,
       (t.cost_usd * 1000000000)::bigint AS cost_nanos,
       ARRAY(SELECT unnest(t.budget_periods)::text) AS budget_periods, t.reserved_nanos
  FROM agentapi.turns t
  JOIN public.chat_messages u ON u.id = t.user_message_id
  LEFT JOIN public.chat_messages a ON a.id = t.assistant_message_id
 ORDER BY t.created_at, t.id
"""
_MESSAGES = """
SELECT m.session_id::text, m.role, m.content, m.metadata ->> 'turn_id' AS turn_id,
       coalesce(t.ids, '{}') AS answered_by
  FROM public.chat_messages m
  LEFT JOIN (SELECT user_message_id, array_agg(id::text) AS ids FROM agentapi.turns GROUP BY 1) AS t
         ON t.user_message_id = m.id
 ORDER BY m.session_id, m.created_at, m.id
"""
_LEDGER = """
SELECT turn_id::text, kind, coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens,
       coalesce(cost_nanos, 0) AS cost_nanos, unpriced, org_id::text AS organization, p.user_id::text AS user, agent,
       (at AT TIME ZONE 'UTC')::date::text AS day
  FROM agentapi.ledger LEFT JOIN agentapi.people p USING (person)
"""
# Sums of a day that are not those of its entries, each way.
_DAYS = """
WITH ledger AS (
    SELECT org_id, (at AT TIME ZONE 'UTC')::date AS day, person, agent, coalesce(model_used, model, '') AS model,
           coalesce(provider, '') AS provider, count(*) FILTER (WHERE kind = 'turn') AS turns,
           sum(coalesce(input_tokens, 0)) AS input_tokens, sum(coalesce(output_tokens, 0)) AS output_tokens,
           sum(coalesce(cost_nanos, 0)) AS cost_nanos, sum(unpriced) AS unpriced
      FROM agentapi.ledger GROUP BY 1, 2, 3, 4, 5, 6
), days AS (
    SELECT org_id, day, person, agent, model, provider, sum(turns)::bigint AS turns,
           sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(cost_nanos) AS cost_nanos,
           sum(unpriced)::bigint AS unpriced
      FROM agentapi.usage_daily GROUP BY 1, 2, 3, 4, 5, 6
)
SELECT row_to_json(e)::text AS day FROM (TABLE ledger EXCEPT TABLE days) AS e
 UNION ALL
SELECT row_to_json(d)::text FROM (TABLE days EXCEPT TABLE ledger) AS d
"""
# The same of the sums of a day and what is made of them: those of organisations and of persons, and who used which
# agent when last.
_ROLLED = """
WITH days AS (SELECT {key}, {sums} FROM agentapi.usage_daily GROUP BY {key}),
     rolled AS (SELECT {key}, {rolled} FROM agentapi.{table} GROUP BY {key})
SELECT row_to_json(d)::text AS day FROM (TABLE days EXCEPT TABLE rolled) AS d
 UNION ALL
SELECT row_to_json(r)::text FROM (TABLE rolled EXCEPT TABLE days) AS r
"""
_SUMS = ", ".join(
    f"sum({name}) AS {name}"
    for name in (
        *("turns", "errors", "unpriced", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens"),
        *("cost_nanos", "latency_ms", "latencies"),
        *("reported", "reported_input_tokens", "reported_output_tokens", "reported_nanos"),
    )
)
_FALSE_DAYS = (
    _DAYS,
    *(
        _ROLLED.format(table=table, key=key, sums=_SUMS, rolled=_SUMS)
        for table, key in (
            ("usage_daily_of_organizations", "org_id, day, agent, model, provider, interaction_type"),
            ("usage_daily_of_persons", "org_id, day, person"),
        )
    ),
    _ROLLED.format(
        table="usage_agents_of_persons", key="org_id, person, agent", sums="max(day)", rolled="max(last_day)"
    ),
)
_PERIODS = """
SELECT array_agg(p.id::text) AS slices, b.scope, b.period, b.hard, b.limit_nanos,
       agentapi.period_end(b.period, p.starts) AS renews_at, sum(p.spent_nanos)::bigint AS spent_nanos,
       sum(p.reserved_nanos)::bigint AS reserved_nanos, sum(p.unpriced)::integer AS unpriced
  FROM agentapi.budget_periods p JOIN agentapi.budgets b ON b.id = p.budget_id
 GROUP BY b.id, p.org_id, p.holder, p.starts ORDER BY b.id, p.org_id, p.holder, p.starts
"""
_AUDITED = "SELECT DISTINCT target_id FROM agentapi.audit_events WHERE action = 'turn_ended' AND target_id IS NOT NULL"


# What the provider takes for a token, in nano-dollars: as in the catalogue of a world.
INPUT_NANOS, OUTPUT_NANOS = 150, 600


def usage_of(marker: str | None) -> tuple[int, int]:
    """Return how many tokens the message of a marker and its answer have, as the provider counts."""
    digits = "00" if marker is None else marker[-2:]
    return 7 + int(digits, 16), 5 + int(digits[0], 16)


def nanos_of(usage: tuple[int, int]) -> int:
    """Return what so many tokens cost."""
    return usage[0] * INPUT_NANOS + usage[1] * OUTPUT_NANOS


def marked(marker: str, words: str) -> str:
    """Write a message that can be followed from its sender to the provider and back."""
    return f"#T:{marker} {words}".strip()


def echo(marker: str | None) -> str:
    """Write the beginning of the answer to a message."""
    return f"ECHO:{marker}"


def marker_of(text: str) -> str | None:
    """Find the marker of a message; the last one, since messages that were never answered are sent with the next."""
    found = _MARKER.findall(text)
    return found[-1] if found else None


def echo_of(text: str) -> str | None:
    """Find which message a text answers."""
    found = _ECHO.search(text)
    return found[1] if found else None


@dataclass(frozen=True, kw_only=True)
class Left:
    """What an answer told of the tightest budget of its turn."""

    scope: str
    period: str
    hard: bool
    nanos: int
    renews_at: str | None


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one call told its caller about a turn."""

    at: float
    turn_id: str
    session_id: str
    status: str
    reply: str = ""
    saved: bool = True
    words: str = ""
    bill: tuple[int, int, int] | None = None  # input and output tokens, and nano-dollars; None if it is unknown
    left: Left | None = None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A call that told nothing about a turn: `kind` is one of `RefusedError`'s, where tool is an error in a 200."""

    at: float
    kind: str
    text: str
    retry_after: float | None = None

    @property
    def is_for_budget(self) -> bool:
        """Whether a budget refused it: the same message would be refused again."""
        return self.kind == "tool" and "budget (" in self.text


@dataclass(frozen=True, kw_only=True)
class CallTime:
    """How long a call took that asked to wait so many seconds for the answer."""

    wait: float
    took: float


@dataclass(kw_only=True)
class Message:
    """A message that a client sent, perhaps several times; `copies` is how often it may stand and be asked."""

    marker: str
    client: int = 0
    number: int = 0
    session_id: str | None = None
    copies: int = 1
    told: list[Told] = field(default_factory=list[Told])
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    calls: list[CallTime] = field(default_factory=list[CallTime])

    @property
    def last(self) -> Told | None:
        """What its sender was told last."""
        return self.told[-1] if self.told else None

    @property
    def is_over_budget(self) -> bool:
        """Whether its sender was told that a budget refuses it."""
        return any(refusal.is_for_budget for refusal in self.refusals)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn as the database has it; `marker` is of its user's message."""

    id: str
    session_id: str
    status: str
    end_reason: str | None
    marker: str | None
    reply: str | None
    created_at: float
    ended_at: float | None
    is_asked: bool
    input_tokens: int | None
    output_tokens: int | None
    cost_nanos: int | None
    budget_periods: Sequence[str] = ()
    reserved_nanos: int | None = None


@dataclass(frozen=True, kw_only=True)
class Period:
    """A period of a budget as the database has it, with all of its slices."""

    slices: Sequence[str]
    scope: str
    period: str
    hard: bool
    limit_nanos: int
    renews_at: str | None
    spent_nanos: int
    reserved_nanos: int
    unpriced: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of the ledger; what is unknown is 0 and counted as unpriced, a `user` who is gone is None."""

    turn_id: str
    kind: str
    input_tokens: int
    output_tokens: int
    cost_nanos: int
    unpriced: int
    organization: str
    user: str | None
    agent: str
    day: str


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What entries, or a turn's bill, come to."""

    turns: int
    input_tokens: int
    output_tokens: int
    cost_nanos: int
    unpriced: int


@dataclass(frozen=True, kw_only=True)
class UsageTold:
    """What `get_usage` told a user of what all of the organisation has used, or they alone: in sum, and by group."""

    organization: str
    user: str
    whole: bool
    by: str
    total: Sums
    groups: Mapping[str, Sums]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A message as the database has it; one that was asked again is answered by more than one turn."""

    session_id: str
    role: str
    content: str
    turn_id: str | None
    answered_by: Sequence[str] = ()


@dataclass(kw_only=True)
class Asked:
    """A request as the provider saw it: by which process, and the whole answer where it ended."""

    request: str
    marker: str | None
    process: str
    at: float
    ended_at: float | None = None
    text: str | None = None


@dataclass(kw_only=True)
class Outage:
    """A time in which no process could use the database, or one process could do nothing."""

    since: float
    until: float | None = None


@dataclass(kw_only=True)
class Life:
    """A process of the program: from when it was ready until it was gone; `killed` had no chance to write."""

    process: str
    since: float = math.inf
    stopping: float | None = None
    until: float | None = None
    killed: bool = False
    frozen: list[Outage] = field(default_factory=list[Outage])


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of it, read at `at`."""

    at: float
    messages: Sequence[Message]
    turns: Sequence[Turn]
    stored: Sequence[Stored]
    audited: frozenset[str]
    asked: Sequence[Asked]
    entries: Sequence[Entry]
    false_days: Sequence[str]
    lives: Sequence[Life] = ()
    outages: Sequence[Outage] = ()
    logged: Mapping[str, str] = field(default_factory=dict[str, str])  # by replica
    periods: Sequence[Period] = ()
    usage: Sequence[UsageTold] = ()


@dataclass(frozen=True)
class Rows:
    """What the database holds."""

    turns: Sequence[Turn]
    stored: Sequence[Stored]
    audited: frozenset[str]
    entries: Sequence[Entry]
    false_days: Sequence[str]
    periods: Sequence[Period]


async def read_database(url: str) -> Rows:
    """Read turns, messages and which ends were audited; refuse to where policies would hide some."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute("SET LOCAL row_security = off")
            turns = [_turn(row) for row in await connection.fetch(_TURNS)]
            stored = [Stored(**dict(row)) for row in await connection.fetch(_MESSAGES)]
            audited = frozenset(str(row["target_id"]) for row in await connection.fetch(_AUDITED))
            entries = [Entry(**dict(row)) for row in await connection.fetch(_LEDGER)]
            false_days = [str(row["day"]) for sql in _FALSE_DAYS for row in await connection.fetch(sql)]
            periods = [Period(**dict(row)) for row in await connection.fetch(_PERIODS)]
    finally:
        await connection.close()
    return Rows(turns, stored, audited, entries, false_days, periods)


def read_log(path: Path) -> list[Asked]:
    """Read the provider's log; a last line that a killed provider did not finish is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return _requests(cast("dict[str, object]", json.loads(line)) for line in lines)


def _requests(lines: Iterable[dict[str, object]]) -> list[Asked]:
    requests: dict[str, Asked] = {}
    for line in lines:
        name, at = str(line["request"]), float(str(line["at"]))
        if line["what"] == "asked":
            marker = line["marker"]
            requests[name] = Asked(
                request=name, marker=None if marker is None else str(marker), process=str(line["process"]), at=at
            )
        elif line["what"] == "ended":
            requests[name].ended_at, requests[name].text = at, str(line["text"])
    return list(requests.values())


def _turn(row: "asyncpg.Record") -> Turn:
    return Turn(
        id=row["id"],
        session_id=row["session_id"],
        status=row["status"],
        end_reason=row["end_reason"],
        marker=marker_of(row["message"]),
        reply=row["reply"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        is_asked=row["is_asked"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_nanos=row["cost_nanos"],
        budget_periods=row["budget_periods"],
        reserved_nanos=row["reserved_nanos"],
    )
