"""What Postgres reads of a session for a prompt: by how its turns ended, and beside what other programs wrote."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.base.ids import AgentId, MessageId, SessionId, TurnId, new_id
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.backends.models import HistoryMessage, MessageRole
from agentapi_mcp.core.conversations.kept_messages import StoredMessage, TurnOutcome, kept_of
from agentapi_mcp.core.conversations.models import (
    AcceptedTurn,
    Ending,
    History,
    NewTurn,
    SettlingRule,
    Turn,
    TurnFault,
    TurnStatus,
)
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.support.new_turns import new_turn

OWNER = UUID(int=5)
DONE = TurnOutcome(TurnStatus.COMPLETED, None, StopReason.END)
CUT = TurnOutcome(TurnStatus.FAILED, BackendFault.STREAM_CUT)
MODERATED = TurnOutcome(TurnStatus.FAILED, BackendFault.CONTENT_POLICY)
OUTCOMES = [
    *(TurnOutcome(TurnStatus.COMPLETED, None, reason) for reason in (None, *StopReason)),
    *(TurnOutcome(TurnStatus.FAILED, fault) for fault in (None, *BackendFault)),
    TurnOutcome(TurnStatus.CANCELLED),
    TurnOutcome(TurnStatus.INTERRUPTED),
]


class Talk:
    """A session of the machine's user that goes on turn by turn."""

    def __init__(self, database: Database, principal: Principal, agent: AgentId) -> None:
        self.turns = PostgresTurns(database)
        self.principal = principal
        self.session: SessionId | None = None
        self._database = database
        self._agent = agent

    def message(self, text: str) -> NewTurn:
        """Make the next message."""
        return replace(new_turn(self._agent, text, self.session), lease_owner=OWNER, join=False)

    async def begin(self, new: NewTurn) -> Turn:
        """Store a message."""
        accepted = await self.turns.begin(self.principal, new)
        assert isinstance(accepted, AcceptedTurn)
        self.session = accepted.turn.session_id
        return accepted.turn

    async def end(self, turn: Turn, reply: str, outcome: TurnOutcome) -> None:
        """Store how its turn ended."""
        fault = outcome.fault and TurnFault(outcome.fault, "no", "nothing")
        ended = replace(turn, status=outcome.status, reply=reply, error=fault, stop_reason=outcome.stop_reason)
        message_id = MessageId(new_id()) if reply else None
        ending = Ending(lease_owner=OWNER, message_id=message_id, caller_gone=False, asked=True, state={})
        assert await self.turns.finish(self.principal, ended, ending) is not None

    async def said(self, text: str, reply: str, outcome: TurnOutcome) -> Turn:
        """Do both."""
        turn = await self.begin(self.message(text))
        await self.end(turn, reply, outcome)
        return turn

    async def interrupted(self, text: str, reply: str) -> Turn:
        """Store a message whose process dies in mid-answer."""
        turn = await self.begin(self.message(text))
        await self.turns.save_partial(self.principal, OWNER, turn.id, reply)
        settled = await self.turns.settle(SettlingRule(own=frozenset(), dead=frozenset({OWNER}), lease=timedelta(1)))
        assert [each.id for each in settled] == [turn.id]
        return turn

    async def written(self, role: str, text: str) -> None:
        """Let another program write a message."""
        async with self._database.as_writer(self.principal) as connection:
            await connection.execute(
                "INSERT INTO public.chat_messages (id, session_id, role, content, created_at) "
                "SELECT gen_random_uuid(), s.id, $2, $3, s.last_message_at + interval '1 microsecond' "
                "FROM public.chat_sessions s WHERE s.id = $1",
                self.session,
                role,
                text,
            )
            await connection.execute(
                "UPDATE public.chat_sessions SET last_message_at = last_message_at + interval '1 microsecond' "
                "WHERE id = $1",
                self.session,
            )

    async def history(self, max_bytes: int = 1_000_000) -> History:
        """Read what is sent with the next message, which comes now."""
        turn = await self.begin(self.message("next"))
        history = await PostgresSessions(self._database).history(self.principal, turn.session_id, turn.id, max_bytes)
        await self.end(turn, "", CUT)
        return history


@pytest.fixture
async def talk(database: Database) -> Talk:
    """Return a session that has not begun."""
    async with database.as_system("add an agent") as connection:
        agent = await connection.fetchval("INSERT INTO public.agents (name, type) VALUES ('a', 'custom') RETURNING id")
    return Talk(database, await PostgresProfiles(database).local_principal(), AgentId(agent))


def texts(history: History) -> list[str]:
    return [message.text for message in history.messages]


async def test_of_turns_that_ended_in_any_way_what_the_rule_keeps_is_read_and_the_rest_not_counted(talk: Talk) -> None:
    stored = list[StoredMessage]()
    for outcome in OUTCOMES:
        for reply in ("", "so far"):
            message = f"{outcome} {reply}"
            turn = await talk.said(message, reply, outcome)
            stored.append(StoredMessage(HistoryMessage(MessageRole.USER, message), turn.id, outcome))
            if reply:
                stored.append(StoredMessage(HistoryMessage(MessageRole.ASSISTANT, reply), turn.id, outcome))
    messages, unfinished = kept_of(stored)
    assert len(messages) > len(OUTCOMES)
    assert await talk.history() == History(messages, dropped=0, unfinished=unfinished)
    assert await talk.history(0) == History((), dropped=len(messages))


async def test_what_was_refused_takes_no_room(talk: Talk) -> None:
    await talk.said("one", "1", DONE)
    await talk.said("b" * 1000, "", MODERATED)
    await talk.said("c" * 1000, "d" * 1000, MODERATED)
    assert await talk.history(4) == History(messages("one", "1"))
    assert await talk.history(3) == History(messages("one", "1")[1:], dropped=1)


def messages(*said: str) -> tuple[HistoryMessage, ...]:
    roles = (MessageRole.USER, MessageRole.ASSISTANT)
    return tuple(HistoryMessage(roles[place % 2], text) for place, text in enumerate(said))


async def test_how_a_turn_ended_that_only_a_later_version_knows_is_read_by_its_status(
    talk: Talk, database: Database
) -> None:
    for reply in ("", "so far"):
        turn = await talk.said(f"x {reply}", reply, CUT)
        async with database.as_system("a later version") as connection:
            statement = "UPDATE agentapi.turns SET error = jsonb_set(error, '{fault}', '\"later\"') WHERE id = $1"
            await connection.execute(statement, turn.id)
    assert await talk.history() == History(messages("x so far", "so far"), unfinished=2)


async def test_what_other_programs_wrote_is_part_of_it(talk: Talk) -> None:
    await talk.said("bad", "", MODERATED)
    await talk.written("ai", "<think>hm</think>Hello.")
    await talk.written("human", "one")
    await talk.written("assistant", "")
    await talk.said("two", "2", DONE)
    await talk.written("user", "three")
    said = [(message.role, message.text) for message in (await talk.history()).messages]
    user, assistant = MessageRole.USER, MessageRole.ASSISTANT
    assert said == [(assistant, "Hello."), (user, "one"), (user, "two"), (assistant, "2"), (user, "three")]


async def test_a_message_that_was_cut_off_and_then_sent_again_stands_once(talk: Talk) -> None:
    await talk.said("one", "so f", CUT)
    await talk.said("one", "", CUT)
    assert await talk.history() == History(messages("one", "so f"), unfinished=2)
    await talk.said("one", "1", DONE)
    await talk.said("one", "one again", DONE)
    assert await talk.history() == History(messages("one", "1", "one", "one again"))


async def test_what_was_asked_again_after_others_had_overtaken_it_stands_once(talk: Talk) -> None:
    lost = await talk.interrupted("one", "so f")
    await talk.said("two", "2", DONE)
    assert texts(await talk.history()) == ["one", "so f", "two", "2"]
    again = await talk.begin(replace(talk.message("one"), id=TurnId(new_id()), replaces=lost.id))
    await talk.end(again, "1", DONE)
    assert await talk.history() == History(messages("two", "2", "one", "1"))


async def test_a_turn_that_takes_over_the_message_of_the_one_it_replaces_is_read_with_it(talk: Talk) -> None:
    lost = await talk.interrupted("one", "so f")
    again = await talk.begin(replace(talk.message("one"), id=TurnId(UUID(int=7)), replaces=lost.id))
    await talk.end(again, "1", DONE)
    assert await talk.history() == History(messages("one", "1"))


async def test_one_that_is_asked_again_and_lost_again_stands_once(talk: Talk) -> None:
    lost = await talk.interrupted("one", "so f")
    for reply in ("so fa", "so far"):
        again = await talk.begin(replace(talk.message("one"), id=TurnId(new_id()), replaces=lost.id))
        await talk.turns.save_partial(talk.principal, OWNER, again.id, reply)
        await talk.turns.settle(SettlingRule(own=frozenset(), dead=frozenset({OWNER})))
        lost = again
    assert await talk.history() == History(messages("one", "so far"), unfinished=2)
