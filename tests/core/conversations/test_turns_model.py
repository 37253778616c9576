"""Random walks through what can happen to turns, against what must hold afterwards."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr
from typing_extensions import override

from agentapi_mcp.app import build
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import AgentApiError
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Steps
from tests.conftest import DatabaseUrls
from tests.support.peers.openai import OpenAIPeer
from tests.support.wires import Break, Wire, open_wire

T = TypeVar("T")
OPTIONS = replace(
    TurnRunnerOptions(),
    lease=timedelta(seconds=0.5),
    renew_every=timedelta(seconds=0.1),
    renew_again=timedelta(seconds=0.1),
    shutdown_grace=timedelta(0),
)
NOW = timedelta(0)
REPLICAS = st.integers(0, 1)
KEYED = 2  # of the three messages, the last one has a key
MESSAGES = st.integers(0, KEYED)
LOSSES = [Break.BEFORE, Break.AFTER]


@dataclass
class Replica:
    """A process's worth of the program, and its wire to the database."""

    services: Services
    wire: Wire


@dataclass
class World:
    """Two replicas on one database, a provider, and what callers have been told."""

    urls: DatabaseUrls
    home: Path
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    steps: Steps = field(default_factory=Steps)
    tag: str = field(default_factory=lambda: uuid4().hex)
    told: list[Turn] = field(default_factory=list[Turn])

    async def open(self) -> None:
        """Bring everything up on a database without turns."""
        self.owner = await asyncpg.connect(self.urls.owner)
        self.stack.push_async_callback(self.owner.close)
        await self.owner.execute("SET row_security = off")
        await self.owner.execute("TRUNCATE public.chat_sessions, agentapi.idempotency_keys CASCADE")
        self.peer = await self.stack.enter_async_context(OpenAIPeer(pace=self.steps))
        self.replicas = [await self._replica() for _ in range(2)]

    async def _replica(self) -> Replica:
        wire, url = await self.stack.enter_async_context(open_wire(self.urls.app))
        chosen = Settings(home=self.home / uuid4().hex, database_url=SecretStr(url), pool_size=8)
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": self.peer.openrouter_url}
        app = await self.stack.enter_async_context(open_app(chosen, environ))
        return Replica(await app.services_provider.services(), wire)

    def request(self, number: int) -> ChatRequest:
        """Write one of the messages; its answer waits for a step before each piece."""
        text = f"{self.tag}-{number} [[slow]] [[chunks2]] [[echo]]"
        return ChatRequest(message=text, agent="droid", idempotency_key=f"{self.tag}-k" if number == KEYED else None)

    async def send(self, replica: int, number: int) -> None:
        """Send a message, and give up waiting at once; a replica without its database refuses it."""
        services = self.replicas[replica].services
        if self.replicas[replica].wire.is_down:
            return
        with suppress(AgentApiError):
            self.told.append(await services.turns.chat(services.principal, self.request(number), wait=NOW))

    async def read(self, replica: int, which: int) -> None:
        """Read a turn that somebody was told of."""
        services, turn = self.replicas[replica].services, self.told[which % len(self.told)]
        with suppress(AgentApiError):
            self.told.append(await services.turns.get(services.principal, str(turn.id)))

    async def cancel(self, replica: int, which: int) -> None:
        """Ask for the end of a turn, where that can be heard."""
        services, turn = self.replicas[replica].services, self.told[which % len(self.told)]
        if not any(each.wire.is_down for each in self.replicas):
            with suppress(AgentApiError):
                self.told.append(await services.turns.cancel(services.principal, str(turn.id)))

    async def until(self, condition: str, *given: object) -> None:
        """Wait until all turns fulfil a condition in the database."""
        statement = f"SELECT EXISTS (SELECT FROM agentapi.turns WHERE NOT ({condition}))"  # noqa: S608  # a literal
        async with asyncio.timeout(60):
            while await self.owner.fetchval(statement, *given):
                pass

    async def end(self) -> None:
        """Let everything come back and every answer end."""
        for replica in self.replicas:
            replica.wire.come_up()
        self.steps.release(1_000)
        await self.until("status NOT IN ('running', 'input_required')")


class Turns(RuleBasedStateMachine):
    """What can happen, in any order."""

    urls: DatabaseUrls
    home: Path
    walks = 0

    def __init__(self) -> None:
        super().__init__()
        Turns.walks += 1
        self.runner = asyncio.Runner()
        self.world = World(self.urls, self.home)
        self.do(self.world.open())

    def do(self, work: Coroutine[None, None, T]) -> T:
        """Do something, and whatever goes on meanwhile."""
        return self.runner.run(work)

    @initialize(replica=REPLICAS, number=MESSAGES)
    def begin(self, replica: int, number: int) -> None:
        """Let a caller send a message."""
        self.do(self.world.send(replica, number))

    @rule(replica=REPLICAS, number=MESSAGES)
    def send(self, replica: int, number: int) -> None:
        """Let a caller send a message, for the first time or again."""
        self.do(self.world.send(replica, number))

    @rule(replica=REPLICAS)
    def send_the_one_with_the_key(self, replica: int) -> None:
        """Let a caller send the message with the key, for the first time or again."""
        self.do(self.world.send(replica, KEYED))

    @precondition(lambda self: not any(replica.wire.is_down for replica in self.world.replicas))
    @rule(replica=REPLICAS)
    def lose_a_replica(self, replica: int) -> None:
        """Cut a replica off from the database, as one is that dies."""
        self.world.replicas[replica].wire.go_down()

    @precondition(lambda self: not any(replica.wire.is_down for replica in self.world.replicas))
    @rule()
    def lose_the_database(self) -> None:
        """Cut all replicas off."""
        for replica in self.world.replicas:
            replica.wire.go_down()

    @precondition(lambda self: any(replica.wire.is_down for replica in self.world.replicas))
    @rule(first=REPLICAS)
    def find_the_database(self, first: int) -> None:
        """Let the replicas come back, one of them first."""
        for place in (first, 1 - first):
            self.world.replicas[place].wire.come_up()

    @rule()
    def answer(self) -> None:
        """Let the provider go on with its answers."""
        self.world.steps.release(3)

    @precondition(lambda self: any(replica.wire.is_down for replica in self.world.replicas))
    @rule()
    def outlast_the_leases(self) -> None:
        """Let time pass until the leases of replicas that are cut off are over, and settled if one is there for it."""
        if all(replica.wire.is_down for replica in self.world.replicas):
            self.do(self.world.until("status <> 'running' OR lease_until < clock_timestamp()"))
        else:
            now = self.do(self.world.owner.fetchval("SELECT clock_timestamp()"))
            # Renewed since then by a replica that is there, or settled by it.
            self.do(self.world.until("status <> 'running' OR lease_until > $1", now + OPTIONS.lease))

    @rule(replica=REPLICAS, statement=st.sampled_from(["begin_turn_1", "end_turn_1"]), how=st.sampled_from(LOSSES))
    def lose_an_acknowledgement(self, replica: int, statement: str, how: Break) -> None:
        """Cut the wire at the next beginning or end of a turn."""
        self.world.replicas[replica].wire.break_at(statement, how)

    @precondition(lambda self: self.world.told)
    @rule(replica=REPLICAS, which=st.integers(0, 99))
    def read(self, replica: int, which: int) -> None:
        """Let a caller come back for a turn."""
        self.do(self.world.read(replica, which))

    @precondition(lambda self: self.world.told)
    @rule(replica=REPLICAS, which=st.integers(0, 99))
    def cancel(self, replica: int, which: int) -> None:
        """Let a caller stop a turn."""
        self.do(self.world.cancel(replica, which))

    @invariant()
    def what_is_told_as_completed_is_stored(self) -> None:
        """Hold what was told against what is stored, as long as the store can be asked."""
        for told in self.world.told:
            if told.status is TurnStatus.COMPLETED and told.saved:
                stored = self.do(self.world.owner.fetchrow(STORED, told.id))
                assert stored is not None
                assert tuple(stored) == ("completed", told.reply)

    @override
    def teardown(self) -> None:
        """Let all come to its end, and count."""
        try:
            self.do(self.world.end())
            asked = Counter(str(exchange.json["messages"]) for exchange in self.world.peer.exchanges)
            keyed = self.world.request(KEYED).message
            assert sum(times for text, times in asked.items() if keyed in text) <= 1, "a key was asked twice"
            assert self.do(self.world.owner.fetchval(FOREIGN)) == 0, "a reply stands at another message"
            assert self.do(self.world.owner.fetchval(TWICE, keyed)) <= 1, "a message with a key stands twice"
            assert self.do(self.world.owner.fetchval(UNAUDITED)) == 0, "the audit log lacks the end of a turn"
            self.what_is_told_as_completed_is_stored()
        finally:
            self.do(self.world.stack.aclose())
            self.runner.close()


STORED = """
SELECT t.status, a.content FROM agentapi.turns t
  LEFT JOIN public.chat_messages a ON a.id = t.assistant_message_id WHERE t.id = $1
"""
FOREIGN = """
SELECT count(*) FROM agentapi.turns t
  JOIN public.chat_messages u ON u.id = t.user_message_id JOIN public.chat_messages a ON a.id = t.assistant_message_id
 WHERE t.status = 'completed' AND strpos(a.content, split_part(u.content, ' ', 1)) = 0
"""
TWICE = "SELECT count(*) FROM public.chat_messages WHERE role = 'user' AND content = $1"
UNAUDITED = """
SELECT count(*) FROM agentapi.turns t
 WHERE (SELECT count(*) FROM agentapi.audit_events e WHERE e.target_id = t.id::text AND e.action = 'turn_ended') <> 1
"""


@pytest.mark.timeout(600)
def test_no_order_of_events_loses_a_turn_or_asks_twice(
    database_urls: DatabaseUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options(_settings: Settings) -> TurnRunnerOptions:
        return OPTIONS

    monkeypatch.setattr(build, "_run_options", options)
    machine = type("Turns", (Turns,), {"urls": database_urls, "home": tmp_path})
    chosen = settings(
        max_examples=25,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,  # the same walks each time, since their time is not
        phases=[Phase.generate],  # a shorter walk is seldom one that fails, since time is part of it
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    run_state_machine_as_test(machine, settings=chosen)
    assert Turns.walks, "nothing was tried"
