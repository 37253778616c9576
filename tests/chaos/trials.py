"""A run of the chaos harness written by hand: its database, its provider's log, its clients, and its processes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import asyncpg
from chaos.evidence import (
    CallTime,
    Evidence,
    Left,
    Life,
    Message,
    Outage,
    Sums,
    Told,
    UsageTold,
    echo,
    marked,
    nanos_of,
    read_database,
    read_log,
    usage_of,
)

from tests.support.databases import DatabaseUrls

# When the message of a run was sent; the times of all else are seconds from then on.
SENT = 1_800_000_000.0
OWNER = "replica-0.1"
_SESSION = "INSERT INTO public.chat_sessions (id, user_id, created_at) VALUES ($1, $2, to_timestamp($3))"
_MESSAGE = """
INSERT INTO public.chat_messages (id, session_id, role, content, metadata, created_at)
VALUES ($1, $2, $3, $4, jsonb_build_object('turn_id', $5::uuid), to_timestamp($6))
"""
_TURN = """
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, assistant_message_id, agent_name, backend,
    fingerprint, status, lease_owner, lease_until, created_at, ended_at, input_tokens, output_tokens, cost_usd)
VALUES ($1, $2, $3, $3, $4, $5, 'stub', 'openai', '', $6::text,
    CASE WHEN $6::text = 'running' THEN $3::uuid END, CASE WHEN $6::text = 'running' THEN now() END,
    to_timestamp($7), to_timestamp($8), $9, $10, $11::numeric / 1000000000)
"""
ENTER = "SELECT agentapi.enter(agentapi.entry_of(t)) FROM agentapi.turns t WHERE t.id = $1 AND t.status <> 'running'"
_AUDIT = """
INSERT INTO agentapi.audit_events (id, at, action, target_id, outcome)
VALUES ($1, to_timestamp($2), 'turn_ended', $3, 'ok')
"""

# Of a plan, since the organisation of a trial is none.
_BUDGET = """
INSERT INTO agentapi.budgets (plan, scope, period, hard, limit_nanos, by_operator)
VALUES ($1, 'organization', $2, $3, $4, true) RETURNING id
"""
_PERIOD = """
INSERT INTO agentapi.budget_periods (budget_id, org_id, holder, starts)
VALUES ($1, $2, $2, agentapi.period_start($3, to_timestamp($4))) RETURNING id::text
"""
_SLICE = """
INSERT INTO agentapi.budget_periods (budget_id, org_id, holder, starts, slice)
SELECT budget_id, org_id, holder, starts, 1 FROM agentapi.budget_periods WHERE id = $1 RETURNING id::text
"""
_COUNT_IN = """
UPDATE agentapi.turns SET budget_periods = coalesce(budget_periods, '{}') || $2::uuid, reserved_nanos = $3 WHERE id = $1
RETURNING agentapi.known_nanos(turns)
"""
_SPEND = """
UPDATE agentapi.budget_periods p SET spent_nanos = spent_nanos + $2, unpriced = unpriced + $3
  FROM agentapi.budgets b WHERE p.id = $1 AND b.id = p.budget_id
RETURNING b.period, b.hard, b.limit_nanos - p.spent_nanos AS left, agentapi.period_end(b.period, p.starts) AS renews_at
"""
RESERVED = 1_000_000


@dataclass
class Trial:
    """A run written by hand: its database, its provider's log, its clients, and its processes."""

    urls: DatabaseUrls
    log: Path
    connection: "asyncpg.Connection[asyncpg.Record]"
    user: str = field(default_factory=lambda: str(uuid4()))
    messages: list[Message] = field(default_factory=list[Message])
    usage: list[UsageTold] = field(default_factory=list[UsageTold])
    logged: str = "level=warning event=leases_not_renewed\n"
    lives: list[Life] = field(default_factory=lambda: [Life(process=OWNER, since=SENT - 60)])
    outages: list[Outage] = field(default_factory=list[Outage])

    def send(self, **more: object) -> Message:
        """Let a client send a message."""
        message = Message(marker=uuid4().hex, **more)  # type: ignore[arg-type]  # fields of a message
        self.messages.append(message)
        return message

    async def session(self) -> str:
        """Begin a session."""
        session = str(uuid4())
        await self.connection.execute(_SESSION, session, self.user, SENT)
        return session

    async def say(self, session: str, role: str, content: str, turn: str, at: float) -> str:
        """Store a message of a session."""
        message = str(uuid4())
        await self.connection.execute(_MESSAGE, message, session, role, content, turn, SENT + at)
        return message

    async def store(
        self,
        message: Message,
        *,
        status: str = "completed",
        reply: str | None = "",
        session: str | None = None,
        at: float = 0.0,
        ended: float | None = 2.0,
    ) -> Told:
        """Store a turn as the program does, audited; return what its caller is told of it."""
        session, turn = session or await self.session(), str(uuid4())
        asked = await self.say(session, "user", marked(message.marker, "hello"), turn, at)
        said = self.answer_to(message) if reply == "" else reply
        end = None if ended is None else at + ended
        answer = None if said is None or end is None else await self.say(session, "assistant", said, turn, end)
        stamps = (SENT + at, None if end is None else SENT + end)
        usage = usage_of(message.marker)
        bill = (*usage, nanos_of(usage)) if status == "completed" else (None, None, None)
        await self.connection.execute(_TURN, turn, session, self.user, asked, answer, status, *stamps, *bill)
        await self.connection.execute(ENTER, turn)
        if end is not None:
            await self.connection.execute(_AUDIT, str(uuid4()), SENT + end, turn)
        return Told(at=SENT + 3, turn_id=turn, session_id=session, status=status, reply=said or "")

    def ask(self, message: Message, *, ended: float | None = 2.0, process: str = OWNER, at: float = 0.0) -> None:
        """Write a request to the provider's log, and its end."""
        request = uuid4().hex
        lines: list[Mapping[str, object]] = [{"at": SENT + at, "what": "asked", "marker": message.marker}]
        if ended is not None:
            lines.append({"at": SENT + at + ended, "what": "ended", "text": self.answer_to(message)})
        with self.log.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps({**line, "request": request, "process": process}) + "\n")

    async def answered(self, status: str = "completed", at: float = 0.0) -> Message:
        """Let a message be sent, accepted, asked, answered, kept and told."""
        message = self.send()
        self.ask(message, at=at)
        message.told.append(await self.store(message, status=status, at=at))
        message.calls.append(CallTime(wait=8, took=2))
        return message

    async def budget(self, limit: int, *, hard: bool = True, period: str = "day") -> str:
        """Set a budget; return its period in which the run is."""
        budget = await self.connection.fetchval(_BUDGET, uuid4().hex, period, hard, limit)
        return str(await self.connection.fetchval(_PERIOD, budget, self.user, period, SENT))

    async def divide(self, period: str) -> str:
        """Return a second slice of a budget's period."""
        return str(await self.connection.fetchval(_SLICE, period))

    async def charged(
        self, period: str, reserved: int = RESERVED, status: str = "completed", at: float = 0.0
    ) -> Message:
        """Let a message be answered, and its turn count in a budget's period, as its caller is told."""
        message = await self.answered(status, at)
        told = message.told[0]
        known = await self.connection.fetchval(_COUNT_IN, told.turn_id, period, reserved)
        row = await self.connection.fetchrow(_SPEND, period, reserved if known is None else known, int(known is None))
        assert row is not None
        left = Left(
            scope="organization",
            period=row["period"],
            hard=row["hard"],
            nanos=row["left"],
            renews_at=row["renews_at"],
        )
        message.told[0] = replace(told, left=left)
        return message

    def told_usage(self, by: str, key: str, sums: Sums) -> UsageTold:
        """Say what `get_usage` tells of an organisation with one group."""
        return UsageTold(organization=self.user, user=self.user, whole=True, by=by, total=sums, groups={key: sums})

    def die(self, at: float) -> None:
        """Let the owner die, beside another process that lives."""
        self.lives[0].until, self.lives[0].killed = SENT + at, True
        self.lives.append(Life(process="replica-1.1", since=SENT - 60))

    async def evidence(self) -> Evidence:
        """Read it back as the harness does."""
        rows = await read_database(self.urls.owner)
        return Evidence(
            at=SENT + 600,
            messages=self.messages,
            turns=rows.turns,
            stored=rows.stored,
            audited=rows.audited,
            entries=rows.entries,
            false_days=rows.false_days,
            periods=rows.periods,
            usage=self.usage,
            asked=read_log(self.log),
            lives=self.lives,
            outages=self.outages,
            logged={"replica-0": self.logged},
        )

    @staticmethod
    def answer_to(message: Message) -> str:
        """Say what the provider says."""
        return f"{echo(message.marker)} w0 w1"
