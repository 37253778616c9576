"""The states of a turn: the table of the code, that of the page, and the checks of the database say the same."""

import re
from itertools import product
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.core.conversations.models import OPEN, TurnStatus
from agentapi_mcp.core.conversations.turn_states import RULES, TurnState
from tests.conftest import DatabaseUrls

PAGE = Path(__file__).parents[3] / "docs" / "design" / "turns.md"


def rows_of_the_page() -> dict[str, tuple[set[str], set[str], bool]]:
    """Read the table of states of the page: what may follow, the statuses of the row, and whether it can be stopped."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|([^|]*)\|([^|]*)\|$", PAGE.read_text(), re.MULTILINE)
    return {
        state: (set(re.findall(r"`(\w+)`", then)), set(re.findall(r"`(\w+)`", stored)), stop.strip() == "yes")
        for state, then, stored, stop in rows
    }


def test_the_page_has_the_table_of_the_code() -> None:
    assert rows_of_the_page() == {
        str(state): (set(map(str, rule.then)), set(map(str, rule.stored)), rule.may_stop)
        for state, rule in RULES.items()
    }


def test_every_state_is_reached_and_all_lead_to_the_end() -> None:
    assert set(RULES) == set(TurnState)
    reached = {TurnState.QUEUED}
    for _ in TurnState:
        reached |= {after for state in reached for after in RULES[state].then}
    assert reached == set(TurnState)
    ending = {TurnState.SETTLED}
    for _ in TurnState:
        ending |= {state for state, rule in RULES.items() if rule.then & ending}
    assert ending == set(TurnState)


def test_what_can_be_stopped_is_not_answered_yet() -> None:
    for rule in RULES.values():
        assert not rule.may_stop or (TurnState.ANSWERED in rule.then and rule.stored <= OPEN)


INSERT = """
INSERT INTO agentapi.turns (id, session_id, user_id, org_id, user_message_id, agent_name, backend, fingerprint, status,
                            lease_owner, lease_until, ended_at)
SELECT gen_random_uuid(), id, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'a', 'b', 'f', $1,
       CASE WHEN $2 THEN gen_random_uuid() END, CASE WHEN $3 THEN now() END,
       CASE WHEN $4 THEN now() + interval '1 hour' END
  FROM public.chat_sessions
"""


async def refused(owner: "asyncpg.Connection[asyncpg.Record]", *given: object) -> bool:
    """Tell whether the database refuses a turn with this status, owner, lease and end."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute("SET LOCAL row_security = off")
        await owner.execute(
            "WITH p AS (INSERT INTO public.profiles (id) VALUES (gen_random_uuid()) RETURNING id) "
            "INSERT INTO public.chat_sessions (id, user_id) SELECT gen_random_uuid(), id FROM p"
        )
        await owner.execute(INSERT, *given)
    except asyncpg.CheckViolationError:
        return True
    else:
        return False
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("status", TurnStatus)
async def test_the_database_wants_a_lease_of_an_open_turn_and_an_end_of_any_other(
    status: TurnStatus, database_urls: DatabaseUrls
) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        allowed = [given for given in product((False, True), repeat=3) if not await refused(owner, str(status), *given)]
    finally:
        await owner.close()
    assert allowed == ([(True, True, False)] if status in OPEN else [(False, False, True)])
