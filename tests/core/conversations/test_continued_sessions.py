"""What an agent is told when a session goes on: what was answered, whoever answered it, on any replica."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import asyncpg
import pytest
from pydantic import SecretStr

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import SessionId
from agentapi_mcp.core.conversations.models import Turn, TurnStatus
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.testing.http import Ticks
from tests.support.databases import DatabaseUrls
from tests.support.peers.droid import droid_peer
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey
from tests.support.worlds import LONG, NOW

OPENAI = """
[agents.{name}]
backend = "openai"
[agents.{name}.options]
base_url = "{url}/v1"
api_key = "sk-test-0123456789"
[[agents.{name}.models]]
name = "m"
model_id = "stub"
provider = "p"
context_window = {window}
"""
DROID = """
[agents.cli]
backend = "droid"
options = {options}
[[agents.cli.models]]
name = "recall"
model_id = "custom:recall"
provider = "p"
"""
MOMENT = timedelta(milliseconds=50)


@dataclass
class Talk:
    """A session that is continued through several replicas by turns."""

    peer: OpenAIPeer
    replicas: Sequence[Services]
    session: SessionId | None = None
    turns: int = 0

    async def says(self, text: str, agent: str = "one", key: str | None = None, *, new: bool = False) -> Turn:
        """Send a message through the next replica, and receive its answer."""
        turn = await self.begins(text, agent, key, new=new)
        server = self.replicas[(self.turns - 1) % len(self.replicas)]
        turn = await server.turns.get(server.principal, str(turn.id), wait=LONG)
        server.turns.delivered(turn)
        return turn

    async def begins(
        self, text: str, agent: str = "one", key: str | None = None, *, new: bool = False, retry: bool = False
    ) -> Turn:
        """Send a message through the next replica."""
        server = self.replicas[self.turns % len(self.replicas)]
        self.turns += 1
        request = ChatRequest(
            message=text,
            agent=agent,
            session_id=None if self.session is None else str(self.session),
            idempotency_key=key,
            new=new,
            retry=retry,
        )
        turn = await server.turns.chat(server.principal, request, wait=NOW)
        self.session = turn.session_id
        return turn

    @property
    def told(self) -> list[str]:
        """What the provider was told last, beginning with the user and by turns."""
        asked = [exchange.json for exchange in self.peer.exchanges if exchange.path.endswith("/chat/completions")]
        messages = cast("list[dict[str, str]]", asked[-1]["messages"])
        assert [message["role"] for message in messages] == [
            ("user", "assistant")[place % 2] for place in range(len(messages))
        ]
        return [message["content"] for message in messages]


@asynccontextmanager
async def talking(
    urls: DatabaseUrls, home: Path, redis: Sequence[str | None], more: str = "", window: int = 100_000
) -> AsyncGenerator[Talk]:
    """Open a replica for each entry, whose Redis it names, on one database and one provider."""
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(OpenAIPeer(pace=Ticks(0.02)))
        config = home / "agentapi.toml"
        agents = [OPENAI.format(name=name, url=peer.origin, window=window) for name in ("one", "two")]
        config.write_text("".join([*agents, more]))
        replicas = list[Services]()
        for number, url in enumerate(redis):
            place = home / str(number)
            settings = Settings(
                home=place,
                config=config,
                database_url=SecretStr(urls.app),
                redis_url=SecretStr(url) if url else None,
            )
            app = await stack.enter_async_context(open_app(settings, {}))
            replicas.append(await app.services_provider.services())
        yield Talk(peer, replicas)


@pytest.fixture(params=["one process", "two processes", "two replicas"])
async def talk(
    request: pytest.FixtureRequest, database_urls: DatabaseUrls, tmp_path: Path, valkey: Valkey
) -> AsyncGenerator[Talk]:
    """Return a session of one process, of two that share the database alone, and of two that share Redis too."""
    redis = {"one process": [None], "two processes": [None, None], "two replicas": [valkey.url] * 2}
    async with talking(database_urls, tmp_path, redis[request.param]) as opened:
        yield opened


async def test_a_message_that_was_refused_is_not_sent_with_later_ones_to_any_agent(talk: Talk) -> None:
    await talk.says("hello")
    refused = await talk.says("BADWORD [[moderation]]")
    assert (refused.error and refused.error.fault) is BackendFault.CONTENT_POLICY
    for agent in ("one", "two"):
        assert (await talk.says(f"still there, {agent}?", agent)).status is TurnStatus.COMPLETED
    answer = "w0 w1 w2 w3 w4 "
    assert talk.told == ["hello", answer, "still there, one?", answer, "still there, two?"]


async def test_a_message_that_is_sent_until_it_is_answered_is_told_once(talk: Talk) -> None:
    for word in ("e429", "contextlen", "drop", "e500"):
        failed = await talk.says(f"translate this [[{word}]]")
        assert failed.status is TurnStatus.FAILED
    for key in (None, "a key", "another key"):
        assert (await talk.says("translate this [[e429]]", key=key)).status is TurnStatus.FAILED
    await talk.says("translate this")
    assert talk.told == ["translate this"]
    await talk.says("translate this", new=True)
    assert talk.told == ["translate this", "w0 w1 w2 w3 w4 ", "translate this"]


async def test_half_an_answer_goes_along_until_its_message_is_sent_again(talk: Talk) -> None:
    cut = await talk.says("tell [[cut]]")
    assert (cut.status, cut.reply) == (TurnStatus.FAILED, "w0 w1 w2 ")
    await talk.says("tell [[cut]]")
    assert talk.told == ["tell [[cut]]"]
    await talk.says("go on [[e500]]")
    await talk.says("go on [[chunks1]]")
    assert talk.told == ["tell [[cut]]", "w0 w1 w2 ", "go on [[chunks1]]"]
    await talk.says("and now?")
    assert talk.told == ["tell [[cut]]", "w0 w1 w2 ", "go on [[chunks1]]", "w0 ", "and now?"]


async def test_a_message_that_was_cancelled_before_any_text_does_not_go_along(talk: Talk) -> None:
    server = talk.replicas[0]
    for word in ("hang", "waits"):
        turn = await talk.begins(f"never mind [[{word}]]")
        await talk.peer.received(talk.turns)
        if word == "waits":
            while not turn.reply:
                turn = await server.turns.get(server.principal, str(turn.id), wait=MOMENT)
        await server.turns.cancel(server.principal, str(turn.id))
    await talk.says("hello")
    assert talk.told == ["never mind [[waits]]", "w0 ", "hello"]


async def test_reasoning_that_an_answer_began_with_does_not_go_back(talk: Talk) -> None:
    await talk.says("<think> hidden </think> shown [[echo]]")
    await talk.says("and?")
    assert talk.told == ["<think> hidden </think> shown [[echo]]", "shown [[echo]] ", "and?"]


async def test_a_message_that_was_refused_stays_in_the_transcript(talk: Talk) -> None:
    await talk.says("BADWORD [[moderation]]")
    await talk.says("hello")
    server = talk.replicas[0]
    kept = await server.sessions.transcript(server.principal, str(talk.session))
    assert [message.content for message in kept.messages] == ["BADWORD [[moderation]]", "hello", "w0 w1 w2 w3 w4 "]


async def test_a_turn_that_is_asked_again_after_others_is_not_told_beside_the_new_one(
    talk: Talk, database_urls: DatabaseUrls
) -> None:
    await talk.says("first [[chunks1]]")
    lost = await talk.says("lost [[cut]]")
    owner = await asyncpg.connect(database_urls.owner)
    interrupted = (
        "UPDATE agentapi.turns SET status = 'interrupted', end_reason = 'shutdown', error = NULL WHERE id = $1"
    )
    await owner.execute("SET row_security = off")
    await owner.execute(interrupted, lost.id)
    await owner.close()
    await talk.says("since [[chunks1]]")
    assert talk.told == ["first [[chunks1]]", "w0 ", "lost [[cut]]", "w0 w1 w2 ", "since [[chunks1]]"]
    again = await talk.begins("lost [[cut]]", retry=True)
    assert again.id != lost.id
    await talk.peer.received(4)
    assert talk.told == ["first [[chunks1]]", "w0 ", "since [[chunks1]]", "w0 ", "lost [[cut]]"]


async def test_what_was_said_before_an_agent_that_resumes_by_itself_is_told_to_the_next(
    database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    async with droid_peer() as cli:
        more = DROID.format(options=inline(cli.given))
        async with talking(database_urls, tmp_path, [None], more) as talk:
            await talk.says("one [[chunks1]]")
            told = [(await talk.says(text, "cli")).reply for text in ("two", "three")]
            assert "one [[chunks1]]" in told[0]
            await talk.says("four", "one")
            assert talk.told == ["one [[chunks1]]", "w0 ", "two", told[0], "three", told[1], "four"]


def inline(value: object) -> str:
    """Write a value as TOML."""
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return "{ " + ", ".join(f"{key} = {inline(item)}" for key, item in items) + " }"
    return json.dumps(value)


async def test_what_a_model_teaches_about_tokens_is_found_by_the_name_it_was_asked_by(
    database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    async with talking(database_urls, tmp_path, [None], window=2000) as talk:
        # Of eleven tokens, as the provider counts, each is of two hundred bytes: then all of it fits into its window.
        turns = [await talk.says(letter * 2200) for letter in "abcd"]
        assert {turn.bill.model_used for turn in turns} == {"stub-001"}
        assert turns[-1].history_dropped == 0
        assert len(talk.told) == 7


async def test_tokens_are_learnt_of_bytes_and_not_of_characters(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    async with talking(database_urls, tmp_path, [None], window=100) as talk:
        # Each message has the four bytes for a token that are estimated, in two characters.
        turns = [await talk.says(letter * 22) for letter in "äöü"]
        assert [turn.history_dropped for turn in turns] == [0, 0, 0]


async def test_nothing_is_learnt_of_a_prompt_that_the_agent_keeps_itself(
    database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    async with droid_peer() as cli:
        more = DROID.format(options=inline(cli.given)) + "context_window = 130\n"
        async with talking(database_urls, tmp_path, [None], more) as talk:
            await talk.says("a" * 28, "cli")  # it counts seven tokens
            await talk.says("b", "cli")  # of all that it knows
            await talk.says("c" * 60, "one")
            assert (await talk.says("d", "cli")).history_dropped == 0
