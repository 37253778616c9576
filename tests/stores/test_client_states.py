"""Hot copies of the state of MCP clients: they spare the row, never outlive a change, and are never needed."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from typing_extensions import override

from agentapi_mcp.core.catalogue.models import NO_PREFERENCES, AgentPreferences, Preferences
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.clients.models import ClientState, State, client_session_id
from agentapi_mcp.core.clients.preferences import Clients
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.clients import PostgresClients
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.redis.client import open_redis
from agentapi_mcp.stores.redis.client_states import RedisClientStates
from agentapi_mcp.stores.redis.hot_copies import TRUSTED_FOR
from agentapi_mcp.stores.redis.keys import ROW_READ
from tests.core.clients.test_preferences import catalogue_of_two
from tests.support.clocks import ManualClock
from tests.support.databases import DatabaseUrls
from tests.support.members import new_member
from tests.support.valkey import Valkey
from tests.support.wires import Wire, open_wire

GUIDE = Preferences(default_agent="guide")


@dataclass
class Replica:
    """The clients as one replica knows them; its database is behind a wire that counts."""

    clients: Clients
    clock: ManualClock
    wire: Wire

    async def preferences(self, who: Principal) -> tuple[Preferences, int]:
        """Read preferences ten seconds later, with the number of statements on rows that it took."""
        self.clock.advance(timedelta(seconds=11))
        return await self.preferences_now(who)

    async def preferences_now(self, who: Principal) -> tuple[Preferences, int]:
        """Read preferences, with the number of statements on rows that it took."""
        before = len(self.wire.statements)
        read = await self.clients.preferences(who, "desk")
        return read, sum("mcp_sessions" in statement for statement in self.wire.statements[before:])


@asynccontextmanager
async def replica(urls: DatabaseUrls, redis_url: str) -> AsyncGenerator[Replica]:
    clock = ManualClock()
    async with (
        open_wire(urls.app) as (wire, url),
        open_database(RemoteServer(url), PoolOptions()) as database,
        open_redis(redis_url, "", clock) as client,
    ):
        store = RedisClientStates(PostgresClients(database), client)
        yield Replica(Clients(store, CataloguePolicy(catalogue_of_two(clock)), clock), clock, wire)


def key_of(who: Principal) -> str:
    return f"session:{client_session_id(who, 'desk')}"


def age(valkey: Valkey, who: Principal, by: timedelta) -> None:
    """Let the row have been read longer ago."""
    valkey.run("PEXPIRE", ROW_READ.name("", key_of(who)), str((TRUSTED_FOR - by) // timedelta(milliseconds=1)))


async def write(database: Database, who: Principal, state: object) -> None:
    """Write the row as another program does."""
    async with database.as_system("test") as connection:
        done = await connection.execute(
            "UPDATE public.mcp_sessions SET mcp_state = $2::text::jsonb WHERE session_id = $1",
            client_session_id(who, "desk"),
            json.dumps(state),
        )
    assert done == "UPDATE 1"


async def test_a_second_replica_answers_from_the_copy_without_the_row(
    database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann, eve = await new_member(database), await new_member(database)
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await one.clients.change(ann, "desk", "default_agent", "guide")
        assert await two.preferences(ann) == (GUIDE, 0)
        for other in (eve, replace(ann, org_id=eve.org_id)):
            read, statements = await two.preferences(other)
            assert (read, statements > 0) == (NO_PREFERENCES, True)
        assert await one.preferences(eve) == (NO_PREFERENCES, 0)  # read through: there is nothing, and that is kept


async def test_a_change_in_one_replica_is_seen_in_the_other(
    database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await two.preferences(ann)
        await one.clients.change(ann, "desk", "default_agent", "guide")
        assert await two.preferences(ann) == (GUIDE, 0)
        await two.clients.change(ann, "desk", "default_agent", None)
        assert await one.preferences(ann) == (NO_PREFERENCES, 0)


async def test_what_another_program_writes_counts_when_the_copy_is_ten_seconds_old(
    database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await one.clients.change(ann, "desk", "default_agent", "droid")
        await write(database, ann, {"defaults": {"agent": "guide"}})
        age(valkey, ann, TRUSTED_FOR - timedelta(seconds=2))
        assert (await two.preferences(ann))[0].default_agent == "droid"
        age(valkey, ann, TRUSTED_FOR)
        # What was eight seconds old is kept in the process for two, not for another ten.
        two.clock.advance(timedelta(seconds=2.1))
        read, statements = await two.preferences_now(ann)
        assert (read, statements > 0) == (GUIDE, True)
        assert await one.preferences(ann) == (GUIDE, 0)


async def test_a_copy_is_as_old_as_the_reading_of_its_row(database: Database, valkey: Valkey) -> None:
    ann, clock = await new_member(database), ManualClock()

    class SlowClients(PostgresClients):
        """A database that takes four seconds, by the clock of Redis."""

        @override
        async def find(self, principal: Principal, client: str) -> ClientState:
            age(valkey, principal, timedelta(seconds=4))
            return await super().find(principal, client)

    async with open_redis(valkey.url, "", clock) as client:
        store = RedisClientStates(SlowClients(database), client)
        assert (await store.find(ann, "desk")).age == timedelta(0)
        assert (await store.find(ann, "desk")).age >= timedelta(seconds=4)


async def test_a_copy_has_what_is_read_and_no_environment_of_other_programs(
    database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    entry = {"mcp_name": "droid", "command": "sh-canary", "env": {"KEY": "sk-canary"}, "auth_type": "a-canary"}
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await one.clients.record(ann, "desk", {"client": "desk", "protocol": "2026-07-28"})
        agents = [{**entry, "temperature": 0.5}, {"mcp_name": "files"}, 7]
        await write(database, ann, {**entry, "enabled": False, "agents": agents, "theme": "t-canary"})
        read = Preferences(
            agents={"droid": AgentPreferences(enabled=False, temperature=0.5), "files": AgentPreferences()}
        )
        assert (await one.preferences(ann))[0] == read
        assert await two.preferences(ann) == (read, 0)
        assert "canary" not in str(valkey.run("GET", key_of(ann)))


async def test_a_full_redis_keeps_no_copy_from_before_a_change(
    database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await one.clients.change(ann, "desk", "default_agent", "droid")
        valkey.run("CONFIG", "SET", "maxmemory", "1")
        await one.clients.change(ann, "desk", "default_agent", "guide")
        for reader in (two, one, two):
            read, statements = await reader.preferences(ann)
            assert (read, statements > 0) == (GUIDE, True)
        valkey.run("CONFIG", "SET", "maxmemory", "0")
        await one.preferences(ann)
        assert await two.preferences(ann) == (GUIDE, 0)


async def test_without_redis_the_row_is_read(database: Database, database_urls: DatabaseUrls, valkey: Valkey) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await one.clients.change(ann, "desk", "default_agent", "droid")
        valkey.stop()
        await one.clients.change(ann, "desk", "default_agent", "guide")
        assert (await two.preferences(ann))[0] == GUIDE


DROID = '{"user_id": "USER", "org_id": "ORG", "others": [], "mcp_state": {"defaults": {"agent": "droid"}}}'


@pytest.mark.parametrize(
    "damage",
    [
        ["SET", "", "EX", "86400"],
        ["SET", "[]", "EX", "86400"],
        ["SET", "[[[[[[[[", "EX", "86400"],
        ["SET", '{"user_id": "USER", "org_id": "ORG", "mcp_state": 3}', "EX", "86400"],
        ["SET", '{"user_id": "USER", "org_id": "ORG", "agent": "droid", "metadata": {}}', "EX", "86400"],
        ["SET", DROID.replace("USER", "another"), "EX", "86400"],
        ["SET", DROID.replace("ORG", "another"), "EX", "86400"],
        ["RPUSH", DROID],
    ],
    ids=str,
)
async def test_what_is_no_copy_is_replaced_by_one(
    damage: list[str], database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one, replica(database_urls, valkey.url) as two:
        await one.clients.change(ann, "desk", "default_agent", "guide")
        assert (await two.preferences(ann))[1] == 0  # a copy that is trusted stood there
        valkey.run("DEL", key_of(ann))
        words = [word.replace("USER", str(ann.user_id)).replace("ORG", str(ann.org_id)) for word in damage[1:]]
        valkey.run(damage[0], key_of(ann), *words)
        read, statements = await two.preferences(ann)
        assert (read, statements > 0) == (GUIDE, True)
        assert await one.preferences(ann) == (GUIDE, 0)


async def test_a_very_large_state_is_not_copied(
    database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one:
        await one.clients.change(ann, "desk", "default_agent", "guide")
        many = [{"mcp_name": f"agent {number}", "enabled": False} for number in range(2_000)]
        await write(database, ann, {"agents": many})
        age(valkey, ann, TRUSTED_FOR)
        assert len((await one.preferences(ann))[0].agents) == len(many)
        assert valkey.keys() == []


@pytest.mark.parametrize("left", [["PERSIST"], ["PEXPIRE", "60000"]], ids=str)
async def test_a_copy_is_never_trusted_for_longer_than_any_is(
    left: list[str], database: Database, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    ann = await new_member(database)
    async with replica(database_urls, valkey.url) as one:
        await one.clients.change(ann, "desk", "default_agent", "droid")
        await write(database, ann, {"defaults": {"agent": "guide"}})
        valkey.run(left[0], ROW_READ.name("", key_of(ann)), *left[1:])
        assert (await one.preferences(ann))[0] == GUIDE


async def test_a_reader_whom_a_change_overtook_puts_back_nothing(database: Database, valkey: Valkey) -> None:
    ann, clock = await new_member(database), ManualClock()

    class OvertakenClients(PostgresClients):
        """A database whose answer another replica's change overtakes."""

        @override
        async def find(self, principal: Principal, client: str) -> ClientState:
            state = await super().find(principal, client)
            await change(ann, "guide")
            return state

    async with open_redis(valkey.url, "", clock) as client:
        writer = RedisClientStates(PostgresClients(database), client)

        async def change(who: Principal, agent: str) -> None:
            await writer.change(who, "desk", lambda state: {**state, "defaults": {"agent": agent}})

        await change(ann, "droid")
        age(valkey, ann, TRUSTED_FOR)
        late = await RedisClientStates(OvertakenClients(database), client).find(ann, "desk")
        assert late.own["defaults"] == {"agent": "droid"}
        assert (await writer.find(ann, "desk")).own["defaults"] == {"agent": "guide"}


async def test_a_reader_who_came_during_a_change_leaves_no_copy_from_before_it(
    database: Database, valkey: Valkey
) -> None:
    ann, clock = await new_member(database), ManualClock()

    class SlowClients(PostgresClients):
        """A database whose change is committed while another replica reads."""

        @override
        async def change(self, principal: Principal, client: str, edit: Callable[[State], State]) -> ClientState:
            await reader.find(principal, client)
            return await super().change(principal, client, edit)

    async with open_redis(valkey.url, "", clock) as client:
        reader = RedisClientStates(PostgresClients(database), client)
        writer = RedisClientStates(SlowClients(database), client)
        await writer.change(ann, "desk", lambda state: {**state, "defaults": {"agent": "guide"}})
        assert (await reader.find(ann, "desk")).own["defaults"] == {"agent": "guide"}
