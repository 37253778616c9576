"""Other programs choose the ids of what they record: none may be one under which something is counted already."""

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
