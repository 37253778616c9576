"""What other programs write past the checks of ours: under ids of others, and by triggers of their own."""

import asyncpg
import pytest

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database
from tests.conftest import DatabaseUrls
from tests.stores.postgres.test_ledger import Scene, bill, make_scene
from tests.stores.postgres.test_seed_names import Outsiders, begin


@pytest.fixture
async def scene(database: Database) -> Scene:
    """Make two organisations."""
    return await make_scene(database)


@pytest.fixture
def out(database_urls: DatabaseUrls) -> Outsiders:
    """Return a way past the program."""
    return Outsiders(database_urls.owner)


async def ratings(scene: Scene, who: Principal) -> list[tuple[int, int]]:
    """Return how often and how well an organisation's turns are rated."""
    rows = await scene.read("SELECT ratings, rating_sum FROM agentapi.usage_daily WHERE org_id = $1", who.org_id)
    return [(row["ratings"], row["rating_sum"]) for row in rows]


@pytest.mark.parametrize("is_running", [True, False])
async def test_nobody_rates_anothers_turn_by_taking_its_id(is_running: bool, scene: Scene, out: Outsiders) -> None:  # noqa: FBT001  # a case
    turn = await begin(scene, scene.bo)
    if not is_running:
        await scene.end(scene.bo, turn, bill(100))
    with pytest.raises(asyncpg.UniqueViolationError, match="this one is taken"):
        await out.insert(scene.ann.user_id, id=turn.id, satisfaction_rating=1)
    if is_running:
        await scene.end(scene.bo, turn, bill(100))
    assert (await ratings(scene, scene.bo), await ratings(scene, scene.ann)) == ([(0, 0)], [])


async def test_a_report_that_was_deleted_is_not_rated_by_who_takes_its_id(scene: Scene, out: Outsiders) -> None:
    session = new_id()
    await out.insert(scene.bo.user_id, id=session, satisfaction_rating=5)
    async with out.be(scene.bo.user_id) as connection:
        await connection.execute("DELETE FROM ai_interactions WHERE id = $1", session)
    with pytest.raises(asyncpg.UniqueViolationError, match="this one is taken"):
        await out.insert(scene.ann.user_id, id=session, satisfaction_rating=1)
    assert await ratings(scene, scene.bo) == [(1, 5)]


_TRIGGER = """
CREATE TEMP TABLE aside (id uuid, recorded boolean, actions text[], cost numeric, link text);
CREATE FUNCTION pg_temp.say() RETURNS trigger LANGUAGE plpgsql AS $f$
DECLARE
    i agentapi.ai_interactions;
BEGIN
    i.id := NEW.id;
    i.title := 'aside';
    i.status := 'completed';
    i.external_metadata := '{}';
    i.tags := '{}';
    i.keywords := '{}';
    i.total_cost := NEW.cost;
    i.external_link := NEW.link;
    PERFORM agentapi.say_of_interaction(i, NEW.recorded, NEW.actions);
    RETURN NEW;
END
$f$;
CREATE TRIGGER say BEFORE INSERT ON aside FOR EACH ROW EXECUTE FUNCTION pg_temp.say();
"""


@pytest.mark.parametrize(
    ("is_new", "recorded", "actions", "link"),
    [
        (True, True, ["organization_changed"], None),
        (True, False, ["rated", "organization_changed"], None),
        (True, True, ["interaction_recorded"], "javascript:alert(1)"),
        (False, True, ["interaction_recorded"], None),  # what this program has billed
    ],
)
async def test_who_has_a_trigger_of_their_own_says_no_more_than_the_view_takes(
    is_new: bool,  # noqa: FBT001  # a case
    recorded: bool,  # noqa: FBT001  # a case
    actions: list[str],
    link: str | None,
    scene: Scene,
    out: Outsiders,
) -> None:
    ann = scene.ann
    turn = await begin(scene, ann)
    await scene.end(scene.ann, turn, bill(100))
    async with out.be(ann.user_id) as connection:
        await connection.execute(_TRIGGER)
        session = turn.session_id
        if is_new:
            sql = "INSERT INTO chat_sessions (user_id, org_id) VALUES ($1, $2) RETURNING id"
            session = await connection.fetchval(sql, ann.user_id, ann.org_id)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="by way of the view"):
            await connection.execute("INSERT INTO aside VALUES ($1, $2, $3, 1, $4)", session, recorded, actions, link)
    written = await scene.read("SELECT FROM agentapi.audit_events WHERE org_id = $1 AND via = 'sql'", ann.org_id)
    assert (written, await scene.read("SELECT FROM agentapi.session_facts WHERE org_id = $1", ann.org_id)) == ([], [])
