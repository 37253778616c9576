"""The cost of a turn in Postgres: every field is kept, also one that has no column, and by programs of any age."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import LiteralString
from uuid import UUID

import pytest

from agentapi_mcp.base.ids import AgentId
from agentapi_mcp.base.json_records import Record, record_fields
from agentapi_mcp.core.conversations.models import AcceptedTurn, Turn, TurnCost, TurnStatus
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.models import KeySource
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.turn_mapping import TURN, cost_record, to_cost
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.new_turns import ending, new_turn
from tests.support.records import filled, leaves

OWNER = UUID(int=5)
END: LiteralString = "SELECT * FROM agentapi.end_turn_2($1, $2::text::jsonb, $3, $4::text::jsonb)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterCost(TurnCost):
    """The cost of a later version, which measures more."""

    later_count: int | None = None
    later_usd: Decimal | None = None
    later_wait: timedelta | None = None


@pytest.fixture
async def principal(database: Database) -> Principal:
    """Return the machine's user."""
    return await PostgresProfiles(database).local_principal()


@pytest.fixture
async def running(database: Database, principal: Principal) -> Turn:
    """Return a turn that runs."""
    async with database.as_system("add an agent") as connection:
        agent = await connection.fetchval("INSERT INTO public.agents (name, type) VALUES ('a', 'custom') RETURNING id")
    new = replace(new_turn(AgentId(agent), "hello"), lease_owner=OWNER)
    accepted = await PostgresTurns(database).begin(principal, new)
    assert isinstance(accepted, AcceptedTurn)
    return accepted.turn


async def finish(database: Database, principal: Principal, running: Turn, cost: TurnCost) -> Turn:
    """End the turn at this cost, and read it again."""
    said = replace(running, status=TurnStatus.COMPLETED, reply="yes", bill=cost)
    assert await PostgresTurns(database).finish(principal, said, ending(OWNER)) is not None
    return await PostgresTurns(database).get(principal, running.id)


async def read_later(database: Database, principal: Principal, turn: Turn) -> LaterCost:
    """Read the turn's cost as the later version does."""
    async with database.as_principal(principal) as connection:
        row = await connection.fetchrow(TURN + " WHERE t.id = $1", turn.id)
    assert row is not None
    return to_cost(row, LaterCost)


@pytest.mark.parametrize("record", [TurnCost, LaterCost])
def test_every_value_of_a_cost_is_in_the_parameter_once(record: type[TurnCost]) -> None:
    cost = filled(record)
    assert Counter(map(as_written, leaves(cost))) == Counter(leaves(cost_record(cost)))


def as_written(value: object) -> object:
    """Return what stands for this value in the database's JSON."""
    if isinstance(value, timedelta):
        return value // timedelta(milliseconds=1)
    return str(value) if isinstance(value, Decimal) else value


async def test_every_field_of_a_cost_is_read_back_equal(
    database: Database, principal: Principal, running: Turn
) -> None:
    cost = filled(TurnCost)
    assert (await finish(database, principal, running, cost)).bill == cost


async def test_a_turn_that_cost_nothing_known_is_read_back_equal(
    database: Database, principal: Principal, running: Turn
) -> None:
    assert (await finish(database, principal, running, TurnCost())).bill == TurnCost()


async def test_a_field_without_a_column_is_kept_for_the_version_that_knows_it(
    database: Database, principal: Principal, running: Turn
) -> None:
    cost = filled(LaterCost)
    older = await finish(database, principal, running, cost)
    assert older.bill == TurnCost(**{name: getattr(cost, name) for name in TurnCost.__dataclass_fields__})
    assert await read_later(database, principal, running) == cost


async def test_a_field_that_an_older_version_did_not_write_has_its_default(
    database: Database, principal: Principal, running: Turn
) -> None:
    cost = TurnCost(cost_source="provider", latency=timedelta(seconds=1))
    written = cost_record(cost)
    del written["cost_details"]
    await end_as_another_version(database, principal, running, written)
    assert await read_later(database, principal, running) == LaterCost(cost_source="provider", latency=cost.latency)


async def end_as_another_version(
    database: Database, principal: Principal, running: Turn, cost: dict[str, object], **more: object
) -> None:
    """End the turn with what another version of the program writes."""
    end: dict[str, object] = {
        "id": str(running.id),
        "session": str(running.session_id),
        "owner": str(OWNER),
        "status": "cancelled",
        "state": {},
        "events": [],
        "history_dropped": 0,
        **more,
    }
    row = await database.call(principal, END, json.dumps(end), "", json.dumps(cost))
    assert row["outcome"] == "ended"


async def test_a_turn_that_says_what_only_a_later_version_knows_is_read(
    database: Database, principal: Principal, running: Turn
) -> None:
    step = {"agent": "a", "backend": "b", "model": None, "outcome": "later", "milliseconds": 1}
    cost = {**cost_record(TurnCost()), "route": [{**step, "key": "later"}, {**step, "key": "account"}, step]}
    error = {"fault": "later", "message": "no", "next_step": "later", "retryable": False, "retry_after": None}
    await end_as_another_version(
        database, principal, running, cost, end_reason="later", stop_reason="later", error=error
    )
    read = await PostgresTurns(database).get(principal, running.id)
    assert [each.key for each in read.bill.route] == [KeySource.UNKNOWN, KeySource.ACCOUNT, KeySource.SERVER]
    assert read.error is not None
    assert (read.error.message, read.error.fault) == ("no", None)
    assert (read.end_reason, read.stop_reason, read.status) == (None, None, TurnStatus.CANCELLED)


def choices(record: type[Record]) -> Iterator[type[Enum]]:
    """Yield the enumerations in a record and its parts."""
    for each in record_fields(record):
        kind: type[object] = each.kind
        if issubclass(kind, Enum):
            yield kind
        elif is_dataclass(kind):
            yield from choices(kind)


def test_every_choice_in_a_cost_takes_what_only_a_later_version_knows() -> None:
    assert {kind: kind("later").value for kind in choices(TurnCost)} == {KeySource: "unknown"}
