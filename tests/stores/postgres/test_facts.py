"""What users say of sessions and turns, and record of others: kept once, in the sums, apart from what was billed."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, LiteralString

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import (
    AgentApiError,
    ConflictError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
from agentapi_mcp.base.ids import OrgId, SessionId
from agentapi_mcp.core.conversations.facts import MOST_TAGS
from agentapi_mcp.core.conversations.models import Session, SettlingRule, Turn
from agentapi_mcp.core.conversations.session_facts import (
    EVERY_SESSION,
    NOT_ARCHIVED,
    NewInteraction,
    Rating,
    Report,
    SessionFilter,
    SessionStatus,
    Tagging,
)
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.identity.shares import Resource, most_rows
from agentapi_mcp.core.keys.models import KeySource, PaidBy, plain_provider
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.facts import PostgresFacts
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.stores.postgres.test_ledger import OWNER, Scene, bill, make_scene, outside
from tests.support.said import rate_many, record_many

_SUMS: LiteralString = """
SELECT coalesce(sum(turns), 0) AS turns, coalesce(sum(cost_nanos), 0) AS cost_nanos,
       coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(unpriced), 0) AS unpriced,
       coalesce(sum(reported), 0) AS reported, coalesce(sum(reported_nanos), 0) AS reported_nanos,
       coalesce(sum(reported_input_tokens), 0) AS reported_input_tokens,
       coalesce(sum(reported_output_tokens), 0) AS reported_output_tokens
  FROM agentapi.usage_daily WHERE org_id = $1
"""
_ENTRIES: LiteralString = """
SELECT count(*) FILTER (WHERE kind = 'turn') AS turns, coalesce(sum(cost_nanos), 0) AS cost_nanos,
       coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(unpriced), 0) AS unpriced,
       count(*) FILTER (WHERE kind = 'reported') AS reported, coalesce(sum(reported_nanos), 0) AS reported_nanos,
       coalesce(sum(reported_input_tokens), 0) AS reported_input_tokens,
       coalesce(sum(reported_output_tokens), 0) AS reported_output_tokens
  FROM agentapi.ledger WHERE org_id = $1
"""
_RATINGS: LiteralString = """
SELECT model, interaction_type, ratings, rating_sum, usefulness_ratings, usefulness_sum FROM agentapi.usage_daily
 WHERE org_id = $1 AND (ratings, rating_sum, usefulness_ratings, usefulness_sum) <> (0, 0, 0, 0) ORDER BY model
"""


@pytest.fixture
async def scene(database: Database) -> Scene:
    """Make the organisations."""
    return await make_scene(database)


async def answered(scene: Scene, who: Principal, session: SessionId | None = None, model: str = "m") -> Turn:
    """Begin and end a turn."""
    turn = await scene.begin(who, PaidBy(KeySource.SERVER, "openai"), session)
    ended = await scene.end(who, turn, bill(5, model_used=model))
    assert ended is not None
    return ended


def facts_of(scene: Scene) -> PostgresFacts:
    return PostgresFacts(scene.database)


async def ratings(scene: Scene, org: OrgId) -> list[tuple[Any, ...]]:
    """Return the sums of ratings by model and kind."""
    return [tuple(row.values()) for row in await scene.read(_RATINGS, org)]


async def check(scene: Scene, org: OrgId) -> dict[str, Any]:
    """Check that ledger and sums agree, and return the sums."""
    [sums] = await scene.read(_SUMS, org)
    assert [sums] == await scene.read(_ENTRIES, org)
    return sums


def reported(**more: Any) -> NewInteraction:  # noqa: ANN401  # fields of a report
    """Make a conversation elsewhere."""
    said = Report(input_tokens=1500, output_tokens=800, cost_usd=Decimal("0.0425"), provider="anthropic")
    return NewInteraction(title="Code Review Session", interaction_type="coding", report=replace(said, **more))


# --- ratings


async def test_a_rating_of_a_turn_is_in_the_sums_and_replaced(scene: Scene) -> None:
    facts, turn = facts_of(scene), await answered(scene, scene.ann)
    other = await answered(scene, scene.ann, turn.session_id, "m2")
    rated = await facts.rate_turn(scene.ann, turn.id, Rating(rating=2, note="made it up"), clear=False)
    assert (rated.session_id, rated.rating) == (turn.session_id, Rating(rating=2, note="made it up"))
    assert await ratings(scene, scene.ann.org_id) == [("m", "", 1, 2, 0, 0)]
    # What is not said stays.
    again = await facts.rate_turn(scene.ann, turn.id, Rating(rating=5), clear=False)
    assert again.rating == Rating(rating=5, note="made it up")
    assert await ratings(scene, scene.ann.org_id) == [("m", "", 1, 5, 0, 0)]
    await facts.rate_turn(scene.ann, other.id, Rating(rating=1), clear=False)
    assert await ratings(scene, scene.ann.org_id) == [("m", "", 1, 5, 0, 0), ("m2", "", 1, 1, 0, 0)]
    cleared = await facts.rate_turn(scene.ann, turn.id, Rating(), clear=True)
    assert cleared.rating == Rating()
    assert await ratings(scene, scene.ann.org_id) == [("m2", "", 1, 1, 0, 0)]


async def test_a_rating_of_a_session_is_in_the_sums_of_its_first_turn(scene: Scene) -> None:
    facts, first = facts_of(scene), await answered(scene, scene.ann)
    await answered(scene, scene.ann, first.session_id, "m2")
    said = Rating(rating=4, usefulness=3, note="well")
    session = await facts.rate_session(scene.ann, first.session_id, said, clear=False)
    assert session.facts.rating == said
    assert await ratings(scene, scene.ann.org_id) == [("m", "", 1, 4, 1, 3)]
    await answered(scene, scene.ann, first.session_id, "m3")
    await facts.rate_session(scene.ann, first.session_id, Rating(usefulness=5), clear=False)
    assert await ratings(scene, scene.ann.org_id) == [("m", "", 1, 4, 1, 5)]
    # What was said is in the sums for good, as is what it cost.
    await PostgresSessions(scene.database).delete(scene.ann, first.session_id)
    assert await ratings(scene, scene.ann.org_id) == [("m", "", 1, 4, 1, 5)]


async def test_what_still_runs_is_not_rated(scene: Scene) -> None:
    facts, running = facts_of(scene), await scene.begin(scene.ann)
    with pytest.raises(ConflictError, match=f"{running.id} is still running") as refused:
        await facts.rate_turn(scene.ann, running.id, Rating(rating=3), clear=False)
    assert refused.value.turn_id == str(running.id)
    with pytest.raises(ConflictError, match="still running"):
        await facts.rate_session(scene.ann, running.session_id, Rating(rating=3), clear=False)
    # Nor by a statement that did not look.
    async with scene.database.as_writer(scene.ann) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(
                "INSERT INTO agentapi.turn_ratings (turn_id, user_id, org_id, rating) "
                "VALUES ($1, auth.uid(), agentapi.bound_organization(), 3)",
                running.id,
            )
    with pytest.raises(AgentApiError):
        async with scene.database.as_writer(scene.ann) as connection:
            await connection.execute(
                "INSERT INTO agentapi.session_facts (session_id, user_id, org_id, rating) "
                "VALUES ($1, auth.uid(), agentapi.bound_organization(), 3)",
                running.session_id,
            )
    assert await ratings(scene, scene.ann.org_id) == []
    await scene.end(scene.ann, running, bill(1))
    await facts.rate_session(scene.ann, running.session_id, Rating(rating=3), clear=False)
    assert [row[2:4] for row in await ratings(scene, scene.ann.org_id)] == [(1, 3)]


async def test_nobody_says_anything_of_what_is_anothers(scene: Scene) -> None:
    facts, turn = facts_of(scene), await answered(scene, scene.ann)
    elsewhere = replace(scene.ann, org_id=scene.bo.org_id)
    for who in (scene.abe, scene.chief, scene.bo, replace(scene.bo, org_id=scene.ann.org_id), elsewhere):
        for attempt in (
            facts.rate_turn(who, turn.id, Rating(rating=1), clear=False),
            facts.rate_session(who, turn.session_id, Rating(rating=1), clear=False),
            facts.tag(who, turn.session_id, Tagging(add=("forged",)), MOST_TAGS),
            facts.archive(who, turn.session_id, archived=True),
        ):
            with pytest.raises(NotFoundError, match="There is no such"):
                await attempt
    assert await ratings(scene, scene.ann.org_id) == []
    assert await scene.read("SELECT FROM agentapi.session_facts WHERE session_id = $1", turn.session_id) == []


@pytest.mark.parametrize("rights", [{"role": Role.VIEWER}, {"scopes": frozenset({TokenScope.READ, TokenScope.CHAT})}])
async def test_who_may_not_edit_says_nothing_although_nobody_checked(scene: Scene, rights: dict[str, Any]) -> None:
    facts, turn = facts_of(scene), await answered(scene, scene.ann)
    who = replace(scene.ann, **rights)
    for attempt in (
        facts.rate_turn(who, turn.id, Rating(rating=1), clear=False),
        facts.rate_session(who, turn.session_id, Rating(rating=1), clear=False),
    ):
        with pytest.raises(AgentApiError):
            await attempt
    assert await ratings(scene, scene.ann.org_id) == []


class Model:
    """What a user has rated, as the sums must have it."""

    def __init__(self) -> None:
        self.said = dict[object, Rating]()

    def rate(self, what: object, rating: Rating, *, clear: bool) -> None:
        """Replace what is said."""
        before = self.said.get(what, Rating())
        self.said[what] = (
            Rating()
            if clear
            else Rating(rating=rating.rating or before.rating, usefulness=rating.usefulness or before.usefulness)
        )

    def sums(self) -> tuple[int, int, int, int]:
        """Return the numbers and sums of ratings and of usefulness."""
        good = [said.rating for said in self.said.values() if said.rating is not None]
        useful = [said.usefulness for said in self.said.values() if said.usefulness is not None]
        return len(good), sum(good), len(useful), sum(useful)


STARS = st.none() | st.integers(1, 5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(st.tuples(st.integers(0, 3), STARS, STARS, st.booleans()), max_size=12))
async def test_sums_are_those_of_what_was_said_last(
    said: list[tuple[int, int | None, int | None, bool]], database: Database
) -> None:
    scene, model = await make_scene(database), Model()
    facts = facts_of(scene)
    turns = [await answered(scene, scene.ann, model=f"m{number}") for number in range(2)]
    for which, rating, usefulness, clear in said:
        turn = turns[which % 2]
        if which < len(turns):
            said_now = Rating(rating=rating)
            await facts.rate_turn(scene.ann, turn.id, said_now, clear=clear)
            model.rate(turn.id, said_now, clear=clear)
        else:
            said_now = Rating(rating=rating, usefulness=usefulness)
            await facts.rate_session(scene.ann, turn.session_id, said_now, clear=clear)
            model.rate(turn.session_id, said_now, clear=clear)
    rows = await ratings(scene, scene.ann.org_id)
    assert tuple(sum(row[number] for row in rows) for number in range(2, 6)) == model.sums()
    assert all(number >= 0 for row in rows for number in row[2:])


async def test_ratings_and_ends_of_turns_at_the_same_time_are_all_there(scene: Scene) -> None:
    facts, firsts = facts_of(scene), [await answered(scene, scene.ann) for _ in range(5)]
    nexts = [await scene.begin(scene.ann, session=first.session_id) for first in firsts]
    async with asyncio.TaskGroup() as group:
        for first, following in zip(firsts, nexts, strict=True):
            group.create_task(scene.end(scene.ann, following, bill(7)))
            group.create_task(facts.rate_session(scene.ann, first.session_id, Rating(rating=5), clear=False))
            group.create_task(facts.rate_turn(scene.ann, first.id, Rating(rating=1), clear=False))
    assert [row[2:4] for row in await ratings(scene, scene.ann.org_id)] == [(10, 30)]
    assert (await check(scene, scene.ann.org_id))["cost_nanos"] == 5 * 5 + 5 * 7


# --- tags, kinds, the archive


async def test_tags_are_added_removed_and_found(scene: Scene) -> None:
    facts, sessions = facts_of(scene), PostgresSessions(scene.database)
    turn, other = await answered(scene, scene.ann), await answered(scene, scene.ann)
    await facts.tag(scene.ann, turn.session_id, Tagging(add=("cats", "to do")), MOST_TAGS)
    session = await facts.tag(
        scene.ann, turn.session_id, Tagging(add=("dogs", "cats"), remove=("to do", "no")), MOST_TAGS
    )
    assert session.facts.tags == ("cats", "dogs")
    await facts.tag(scene.ann, other.session_id, Tagging(add=("dogs",)), MOST_TAGS)

    async def found(tag: str) -> list[SessionId]:
        page = await sessions.list_(scene.ann, SessionFilter(tag=tag), cursor=None, limit=9)
        return [each.id for each in page.items]

    assert await found(" CATS") == [turn.session_id]
    assert await found("dogs") == [other.session_id, turn.session_id]
    assert await found("dog") == []
    with pytest.raises(InvalidRequestError, match=r"would have 3 tags; it may have 2\. Remove some"):
        await facts.tag(scene.ann, turn.session_id, Tagging(add=("more",)), 2)


async def test_turns_count_as_of_the_kind_that_their_session_had_when_they_ended(scene: Scene) -> None:
    facts, turn = facts_of(scene), await scene.begin(scene.ann)
    rule = SettlingRule(own=frozenset(), dead=frozenset({OWNER}))
    await PostgresTurns(scene.database).settle(rule)
    await facts.tag(scene.ann, turn.session_id, Tagging(interaction_type="coding"), MOST_TAGS)
    # The late bill of one that ended before.
    assert await scene.end(scene.ann, turn, bill(31)) is None
    await answered(scene, scene.ann, turn.session_id)
    rows = await scene.read(
        "SELECT interaction_type, turns, unpriced, cost_nanos FROM agentapi.usage_daily WHERE org_id = $1 ORDER BY 1",
        scene.ann.org_id,
    )
    assert [tuple(row.values()) for row in rows] == [("", 1, 0, 31), ("coding", 1, 0, 5)]
    kinds = "SELECT kind, interaction_type FROM agentapi.ledger WHERE org_id = $1 ORDER BY recorded_at"
    assert [tuple(row.values()) for row in await scene.read(kinds, scene.ann.org_id)] == [
        *(("turn", None), ("correction", None), ("turn", "coding")),
    ]
    await facts.rate_turn(scene.ann, turn.id, Rating(rating=3), clear=False)
    assert [row[1:4] for row in await ratings(scene, scene.ann.org_id)] == [("", 1, 3)]


async def test_what_is_archived_is_left_out_of_lists_that_do_not_ask_for_it(scene: Scene) -> None:
    facts, sessions = facts_of(scene), PostgresSessions(scene.database)
    kept, away = await answered(scene, scene.ann), await answered(scene, scene.ann)

    async def listed(wanted: SessionFilter) -> list[SessionId]:
        return [each.id for each in (await sessions.list_(scene.ann, wanted, cursor=None, limit=9)).items]

    archived = await facts.archive(scene.ann, away.session_id, archived=True)
    assert archived.facts.status is SessionStatus.ARCHIVED
    assert await listed(NOT_ARCHIVED) == [kept.session_id]
    assert await listed(EVERY_SESSION) == [away.session_id, kept.session_id]
    back = await facts.archive(scene.ann, away.session_id, archived=False)
    assert back.facts.status is SessionStatus.ACTIVE
    assert await listed(NOT_ARCHIVED) == [away.session_id, kept.session_id]


# --- what happened elsewhere


async def test_what_happened_elsewhere_is_counted_apart_from_what_was_billed(scene: Scene) -> None:
    facts = facts_of(scene)
    await answered(scene, scene.ann)
    ended = datetime(2026, 10, 31, 23, 59, tzinfo=UTC)
    new = replace(reported(external_link="https://claude.ai/chat/xyz", agent="claude.ai"), ended_at=ended, tags=("x",))
    session, is_new = await facts.record(scene.ann, new)
    assert is_new
    assert (session.title, session.agent, session.facts.tags) == ("Code Review Session", "claude.ai", ("x",))
    assert (session.facts.report, session.facts.status) == (new.report, SessionStatus.COMPLETED)
    [entry] = await scene.read("SELECT * FROM agentapi.ledger WHERE session_id = $1", session.id)
    assert (entry["kind"], entry["at"], entry["agent"], entry["provider"], entry["interaction_type"]) == (
        *("reported", ended, "claude.ai", "anthropic", "coding"),
    )
    assert (entry["cost_nanos"], entry["unpriced"], entry["input_tokens"]) == (0, 0, None)
    assert (entry["cost_source"], entry["reported_nanos"]) == ("reported by the user", 42_500_000)
    sums = await check(scene, scene.ann.org_id)
    assert sums == {
        "turns": 1,
        "cost_nanos": 5,
        "input_tokens": 1000,
        "unpriced": 0,
        "reported": 1,
        "reported_nanos": 42_500_000,
        "reported_input_tokens": 1500,
        "reported_output_tokens": 800,
    }
    [day] = await scene.read(
        "SELECT day FROM agentapi.usage_daily WHERE org_id = $1 AND reported = 1", scene.ann.org_id
    )
    assert day["day"] == date(2026, 10, 31)
    await facts.rate_session(scene.ann, session.id, Rating(rating=4), clear=False)
    assert await ratings(scene, scene.ann.org_id) == [("", "coding", 1, 4, 0, 0)]
    back = await facts.archive(scene.ann, session.id, archived=False)
    assert back.facts.status is SessionStatus.COMPLETED


@pytest.mark.parametrize("key", ["external_id", "external_link"])
async def test_the_same_is_recorded_once_also_by_many_at_the_same_time(scene: Scene, key: str) -> None:
    facts, new = facts_of(scene), reported(**{key: "https://claude.ai/chat/xyz"})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(facts.record(scene.ann, new)) for _ in range(8)]
    done: list[tuple[Session, bool]] = [task.result() for task in tasks]
    assert len({session.id for session, _ in done}) == 1
    assert sum(is_new for _, is_new in done) == 1
    # What is left out is no contradiction, and what is said otherwise is not dropped.
    assert (await facts.record(scene.ann, replace(new, report=replace(new.report, cost_usd=None))))[1] is False
    with pytest.raises(ConflictError, match=r"with another cost_usd\. Pass another external_id"):
        await facts.record(scene.ann, replace(new, report=replace(new.report, cost_usd=Decimal(1))))
    # Another's, and without an id, are others.
    assert (await facts.record(scene.abe, new))[1] is True
    assert (await facts.record(scene.ann, reported()))[1] is True
    assert (await facts.record(scene.ann, reported()))[1] is True
    assert (await check(scene, scene.ann.org_id))["reported"] == 4
    titles = "SELECT FROM public.chat_sessions WHERE org_id = $1"
    assert len(await scene.read(titles, scene.ann.org_id)) == 4


async def test_what_is_unknown_of_it_stays_unknown(scene: Scene) -> None:
    session, _ = await facts_of(scene).record(scene.ann, NewInteraction(title="a chat", report=Report()))
    [entry] = await scene.read("SELECT * FROM agentapi.ledger WHERE session_id = $1", session.id)
    assert (entry["agent"], entry["reported_nanos"], entry["reported_input_tokens"]) == ("elsewhere", None, None)
    assert (await check(scene, scene.ann.org_id))["reported"] == 1


# --- how much


async def test_there_are_only_so_many(scene: Scene, database_urls: DatabaseUrls) -> None:
    facts, turn = facts_of(scene), await answered(scene, scene.ann)
    await facts.rate_turn(scene.ann, turn.id, Rating(rating=3), clear=False)
    await facts.record(scene.ann, reported())
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await rate_many(owner, turn.id, most_rows(Resource.RATINGS) - 1)
        await record_many(owner, scene.ann.user_id, scene.ann.org_id, most_rows(Resource.RECORDED) - 1)
        further = await answered(scene, scene.ann)
        with pytest.raises(LimitExceededError, match=r"You have 10,000 of 10,000 rated turns; delete sessions"):
            await facts.rate_turn(scene.ann, further.id, Rating(rating=3), clear=False)
        # One that is replaced is no further one.
        assert (await facts.rate_turn(scene.ann, turn.id, Rating(rating=5), clear=False)).rating.rating == 5
        with pytest.raises(LimitExceededError, match=r"You have 10,000 of 10,000 recorded conversations; delete some"):
            await facts.record(scene.ann, reported())
        assert (await facts.record(scene.abe, reported()))[1] is True
    finally:
        await owner.execute("DELETE FROM public.chat_sessions WHERE user_id = $1", scene.ann.user_id)
        await owner.close()


async def test_recorded_conversations_count_among_those_of_an_organisation(scene: Scene) -> None:
    facts = facts_of(scene)
    async with scene.database.as_system("test") as connection:
        await connection.execute(
            'UPDATE public.organizations SET settings = \'{"limits": {"max_conversations": 2}}\' WHERE id = $1',
            scene.ann.org_id,
        )
    for who in (scene.ann, scene.abe):
        await facts.record(who, reported())
    with pytest.raises(LimitExceededError, match="Your organisation has 2 of 2 conversations that it may have"):
        await facts.record(scene.ann, reported())
    assert (await check(scene, scene.ann.org_id))["reported"] == 2
    assert len(await scene.read("SELECT FROM public.chat_sessions WHERE org_id = $1", scene.ann.org_id)) == 2


# --- words


async def test_words_are_there_for_everybody_and_extended_by_a_back_end_alone(scene: Scene) -> None:
    providers = await scene.read("SELECT id, auth_type FROM agentapi.providers")
    vendors = {
        *("openai", "anthropic", "google", "azure", "replicate", "together", "elevenlabs", "stability", "cohere"),
        *("huggingface", "perplexity"),
    }
    assert {row["id"] for row in providers} >= vendors | {"openrouter", "vertex-ai"}
    assert all(plain_provider(row["id"]) == row["id"] for row in providers)
    kinds = await scene.read("SELECT kind, count(*) FROM agentapi.terms GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in kinds] == [("feature", 11), ("interaction_type", 7)]
    types = await facts_of(scene).interaction_types(scene.ann)
    assert types[:2] == ("conversation", "coding")
    async with outside(scene.database, scene.ann.user_id) as connection:
        assert await connection.fetchval("SELECT count(*) FROM agentapi.terms") == 18
    for forged in (
        "INSERT INTO agentapi.providers (id, name) VALUES ('forged', 'Forged')",
        "INSERT INTO agentapi.terms (kind, id, name) VALUES ('feature', 'forged', 'Forged')",
        "UPDATE agentapi.terms SET name = 'Forged'",
    ):
        with pytest.raises(AgentApiError):
            async with outside(scene.database, scene.chief.user_id) as connection:
                await connection.execute(forged)
        with pytest.raises(AgentApiError):
            async with scene.database.as_writer(scene.chief) as connection:
                await connection.execute(forged)
