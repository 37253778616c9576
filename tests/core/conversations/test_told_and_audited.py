"""What a caller was told is in the audit log at that moment, not half a second later, when the process may be dead."""

import pytest

from agentapi_mcp.core.conversations.models import TurnStatus
from tests.support.worlds import NOW, SLOW, World, asks


async def audited(world: World, action: str, target: object) -> int:
    """Count the events in the database."""
    return await world.owner.fetchval(
        "SELECT count(*) FROM agentapi.audit_events WHERE action = $1 AND target_id = $2", action, str(target)
    )


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_turn_that_was_cancelled(*, elsewhere: bool, world: World) -> None:
    owner = await world.program()
    asked_of = await world.program() if elsewhere else owner
    running = await owner.turns.chat(owner.principal, asks(SLOW), wait=NOW)
    told = await asked_of.turns.cancel(asked_of.principal, str(running.id))
    assert [await audited(world, action, told.id) for action in ("turn_cancelled", "turn_ended")] == [1, 1]
    assert told.status is TurnStatus.CANCELLED


async def test_a_session_that_was_renamed_and_deleted(world: World) -> None:
    server = await world.program()
    session = (await world.answered(server, asks())).session_id
    await server.sessions.rename(server.principal, str(session), "another title")
    assert await audited(world, "session_renamed", session) == 1
    await server.sessions.delete(server.principal, str(session))
    assert await audited(world, "session_deleted", session) == 1
