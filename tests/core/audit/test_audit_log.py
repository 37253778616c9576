"""What is recorded, when it is written, and what is counted instead; over a real database, also one that is away."""

import logging
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from agentapi_mcp.base import log_context
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import InvalidRequestError, PermissionDeniedError, StoreUnavailableError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.audit.models import (
    AWAITED,
    AuditAction,
    AuditDetails,
    AuditEvent,
    AuditFilter,
    AuditOutcome,
    AuditTarget,
)
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.stores.postgres.audit import PostgresAudit
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, open_database
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.clocks import ManualClock

YEAR = timedelta(days=365)


def somebody(role: Role = Role.OWNER) -> Principal:
    return Principal(UserId(new_id()), OrgId(new_id()), role)


async def written(database: Database, principal: Principal, *, nobodys: bool = False) -> list[AuditEvent]:
    """Read what is in the database, oldest first."""
    store = PostgresAudit(database)
    page = await store.list_(principal, AuditFilter(), include_unowned=nobodys, cursor=None, limit=200)
    return list(reversed(page.items))


@dataclass
class Away:
    """A server that nobody reaches until it is back."""

    address: str
    is_back: bool = False

    async def url(self) -> str:
        """Tell where it is."""
        if not self.is_back:
            raise ConnectionRefusedError
        return self.address

    async def recover(self) -> str:
        """Tell where it is."""
        return await self.url()


async def test_a_turn_waits_for_no_database_and_a_changed_right_does(database: Database) -> None:
    audit, principal = audit_log(database), somebody()
    await audit.record(principal, AuditAction.TURN_ACCEPTED)
    assert await written(database, principal) == []
    await audit.record(principal, AuditAction.TOKEN_CREATED, target=AuditTarget("token", "1"))
    assert [event.action for event in await written(database, principal)] == [AuditAction.TOKEN_CREATED]
    await audit.record(principal, AuditAction.TOKEN_CREATED, outcome=AuditOutcome.REFUSED)
    assert len(await written(database, principal)) == 1
    await audit.flush()
    assert len(await written(database, principal)) == 3


async def test_what_waits_is_written_in_the_background_and_at_the_end(database: Database) -> None:
    principal = somebody()
    async with audit_log(database).open() as audit:
        await audit.record(principal, AuditAction.TURN_ACCEPTED)
        while not await written(database, principal):
            pass
        await audit.record(principal, AuditAction.TURN_ENDED)
    assert [event.action for event in await written(database, principal)] == [
        AuditAction.TURN_ACCEPTED,
        AuditAction.TURN_ENDED,
    ]


async def test_an_event_says_who_from_where_and_only_what_it_may(database: Database) -> None:
    audit, principal = audit_log(database), somebody()
    log_context.address.set("192.0.2.7")
    log_context.client.set("ide 1.0")
    log_context.request_id.set("r-1")
    said = {
        "agent": "a\nb\x00c" + "d" * 500,
        "message": "what somebody wrote",
        "cost_usd": float("nan"),
        "model": None,
        "count": 3,
    }
    await audit.record(
        principal,
        AuditAction.TURN_ENDED,
        target=AuditTarget("turn", "x\ud800y" + "z" * 500),
        details=AuditDetails(**said),  # type: ignore[typeddict-item]  # what a careless caller says
    )
    await audit.flush()
    (event,) = await written(database, principal)
    assert (event.user_id, event.org_id, event.via) == (principal.user_id, principal.org_id, "local")
    assert (event.address, event.client, event.request_id) == ("192.0.2.7", "ide 1.0", "r-1")
    assert set(event.details) == {"agent", "count"}
    assert str(event.details["agent"]).startswith("a b cddd")
    assert len(str(event.details["agent"])) <= 120
    assert event.target is not None
    assert event.target.id.startswith("x yzzz")


async def test_refusals_are_counted_within_a_minute(database: Database) -> None:
    clock, operator = ManualClock(at=SystemClock().now()), somebody()
    audit, principal = audit_log(database, clock, operator), somebody()
    error = PermissionDeniedError("no", scope="chat", action="sessions:chat")
    for tool in ("chat", "chat", "cancel_turn", "chat"):
        await audit.denied(principal, error, AuditTarget("tool", tool))
    await audit.flush()
    said = [
        (event.target and event.target.id, event.details.get("count")) for event in await written(database, principal)
    ]
    assert sorted(said, key=str) == [("cancel_turn", None), ("chat", 2), ("chat", None)]


async def test_who_comes_from_many_addresses_does_not_fill_the_log(database: Database) -> None:
    operator = somebody()
    audit = audit_log(database, ManualClock(at=SystemClock().now()), operator)
    before = len(await written(database, operator, nobodys=True))
    for number in range(3000):
        log_context.address.set(f"2001:db8::{number:x}")
        await audit.record(None, AuditAction.SIGN_IN_REFUSED, outcome=AuditOutcome.REFUSED)
    await audit.flush()
    found = (await written(database, operator, nobodys=True))[before:]
    assert len(found) == 102
    assert found[-1].address is None
    assert found[-1].details == {"count": 2899}


async def test_one_organisation_hides_no_other_ones_refusals(database: Database) -> None:
    flooding, quiet = somebody(), somebody()
    audit = audit_log(database, ManualClock(at=SystemClock().now()), flooding)
    for number in range(200):
        log_context.address.set(f"2001:db8::{number:x}")
        await audit.record(flooding, AuditAction.PERMISSION_DENIED, outcome=AuditOutcome.REFUSED)
    await audit.record(quiet, AuditAction.PERMISSION_DENIED, outcome=AuditOutcome.REFUSED)
    await audit.flush()
    (event,) = await written(database, quiet)
    assert (event.org_id, event.user_id) == (quiet.org_id, quiet.user_id)


async def test_a_minute_of_refusals_is_told_when_it_is_over(database: Database) -> None:
    clock, principal = ManualClock(at=SystemClock().now()), somebody()
    error = PermissionDeniedError("no", action="sessions:chat")
    async with audit_log(database, clock).open() as audit:  # time passes where it waits
        for _ in range(5):
            await audit.denied(principal, error, AuditTarget("tool", "chat"))
        while len(found := await written(database, principal)) < 2:
            pass
    assert [event.details.get("count") for event in found] == [None, 4]


async def test_a_sign_in_is_recorded_once_an_hour_for_each_address(database: Database) -> None:
    clock, principal = ManualClock(at=SystemClock().now()), somebody()
    audit = audit_log(database, clock)
    for address, later in (("192.0.2.7", 0), ("192.0.2.7", 59), ("192.0.2.8", 0), ("192.0.2.7", 2), ("192.0.2.7", 0)):
        clock.advance(timedelta(minutes=later))
        log_context.address.set(address)
        await audit.signed_in(principal)
    await audit.flush()
    assert [event.address for event in await written(database, principal)] == ["192.0.2.7", "192.0.2.8", "192.0.2.7"]


async def test_a_full_memory_of_sign_ins_forgets_the_oldest_alone(database: Database) -> None:
    audit, principal = audit_log(database, ManualClock(at=SystemClock().now()), max_remembered=2), somebody()
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3", "192.0.2.2", "192.0.2.1"):
        log_context.address.set(address)
        await audit.signed_in(principal)
    await audit.flush()
    recorded = [event.address for event in await written(database, principal)]
    assert recorded == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"]


async def test_an_administrator_reads_their_own_organisation_alone_and_that_is_recorded(database: Database) -> None:
    audit, principal = audit_log(database), somebody(Role.ADMIN)
    await audit.record(principal, AuditAction.SESSION_DELETED)
    await audit.record(somebody(), AuditAction.SESSION_DELETED)
    await audit.record(None, AuditAction.SIGN_IN_REFUSED, outcome=AuditOutcome.REFUSED)
    page = await audit.list_(principal, AuditFilter())
    assert [(event.action, event.user_id) for event in page.items] == [(AuditAction.SESSION_DELETED, principal.user_id)]
    again = await audit.list_(principal, AuditFilter())
    assert again.items[0].action == AuditAction.AUDIT_READ


async def test_the_operator_also_reads_what_is_nobodys(database: Database) -> None:
    operator = somebody()
    audit = audit_log(database, operator=operator)
    log_context.address.set("192.0.2.99")
    await audit.record(None, AuditAction.SIGN_IN_REFUSED, outcome=AuditOutcome.REFUSED)
    page = await audit.list_(operator, AuditFilter(action=AuditAction.SIGN_IN_REFUSED))
    assert page.items[0].address == "192.0.2.99"


@pytest.mark.parametrize(
    "reader",
    [
        Principal(UserId(new_id()), OrgId(new_id()), Role.MEMBER),
        Principal(UserId(new_id()), OrgId(new_id()), Role.VIEWER),
        Principal(UserId(new_id()), OrgId(new_id()), Role.OWNER, frozenset({TokenScope.READ, TokenScope.CHAT})),
    ],
)
async def test_a_member_and_a_narrow_token_may_not_read_it(reader: Principal, database: Database) -> None:
    with pytest.raises(PermissionDeniedError):
        await audit_log(database).list_(reader, AuditFilter())


@pytest.mark.parametrize("limit", [0, 201])
async def test_a_page_has_a_size(limit: int, database: Database) -> None:
    with pytest.raises(InvalidRequestError):
        await audit_log(database).list_(somebody(), AuditFilter(), limit=limit)


async def test_what_could_not_be_written_is_written_when_the_database_is_back(
    database: Database, database_urls: DatabaseUrls
) -> None:
    principal, server = somebody(), Away(database_urls.app, is_back=True)
    async with open_database(server, PoolOptions(max_size=1)) as lost:
        await lose(lost, database_urls, server)
        audit = audit_log(lost)
        await audit.record(principal, AuditAction.TURN_ACCEPTED)
        for action in sorted(AWAITED):
            with pytest.raises(StoreUnavailableError, match="It is done"):
                await audit.record(principal, action)
        server.is_back = True
        await audit.flush()
    assert [event.action for event in await written(database, principal)] == ["turn_accepted", *sorted(AWAITED)]


async def test_what_is_lost_is_told_in_the_log_and_recorded(
    database: Database, database_urls: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    principal, operator, server = somebody(), somebody(), Away(database_urls.app, is_back=True)
    async with open_database(server, PoolOptions(max_size=1)) as lost:
        await lose(lost, database_urls, server)
        audit = audit_log(lost, operator=operator)
        for _ in range(10_003):
            await audit.record(principal, AuditAction.TURN_ACCEPTED)
        server.is_back = True
        page = await audit.list_(operator, AuditFilter(action=AuditAction.EVENTS_LOST))
    assert page.items[0].details == {"count": 3}
    assert [record.__dict__["count"] for record in caplog.records if record.message == "audit_events_lost"] == [3]
    async with database.as_system("a test") as connection:
        kept = "SELECT count(*) FROM agentapi.audit_events WHERE org_id = $1"
        assert await connection.fetchval(kept, principal.org_id) == 10_000


async def test_who_leaves_while_the_database_is_away_says_how_much_is_lost(
    database_urls: DatabaseUrls, caplog: pytest.LogCaptureFixture
) -> None:
    server = Away(database_urls.app, is_back=True)
    async with open_database(server, PoolOptions(max_size=1)) as lost:
        await lose(lost, database_urls, server)
        async with audit_log(lost).open() as audit:
            for _ in range(3):
                await audit.record(somebody(), AuditAction.TURN_ACCEPTED)
    said = [
        (record.levelno, record.__dict__["count"]) for record in caplog.records if record.message == "audit_events_lost"
    ]
    assert said == [(logging.ERROR, 3)]


async def lose(database: Database, urls: DatabaseUrls, server: Away) -> None:
    """End the connection of a pool, and let no other be made."""
    async with database.as_system("the connection that is lost") as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    other = await asyncpg.connect(urls.app)
    await other.execute("SELECT pg_terminate_backend($1)", pid)
    await other.close()
    server.is_back = False
