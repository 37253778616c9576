"""What a process knows of a session's defaults: a turn never begins with what has changed since."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.base.ids import OrgId, SessionId, UserId, new_id
from agentapi_mcp.core.conversations.known_defaults import KnownDefaults
from agentapi_mcp.core.conversations.models import Defaults, Turn
from agentapi_mcp.core.conversations.requests import ChatRequest
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.services import Services
from tests.support.wires import Break, Wire
from tests.support.worlds import World

READ = "turn_defaults_1"


@pytest.fixture(autouse=True)
async def organization(world: World) -> AsyncGenerator[None]:
    """Give the organisation its settings back."""
    before = await world.owner.fetch("SELECT id, settings::text FROM public.organizations")
    yield
    for row in before:
        await world.owner.execute(
            "UPDATE public.organizations SET settings = $2::text::jsonb WHERE id = $1", row["id"], row["settings"]
        )


async def put(world: World, **settings: object) -> None:
    await world.owner.execute("UPDATE public.organizations SET settings = $1::text::jsonb", json.dumps(settings))


async def said(
    world: World, server: Services, text: str, session: str | None = None, *, agent: str | None = None
) -> Turn:
    """Send a message that names no agent, unless one is given."""
    request = ChatRequest(message=f"{text} {new_id()}", session_id=session, agent=agent)
    return await world.answered(server, request)


def asked(world: World) -> Any:  # noqa: ANN401  # JSON
    """Return what the provider was asked last."""
    return world.peer.exchanges[-1].json


def reads(wire: Wire) -> int:
    """Count how often a process has read defaults."""
    return sum(READ in statement for statement in wire.statements)


async def test_a_session_that_goes_on_is_not_read_before_each_message(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    first = await said(world, server, "hello", agent="droid")
    assert reads(wire) == 1
    for _ in range(3):
        turn = await said(world, server, "more", str(first.session_id))
        assert (turn.agent, turn.model) == (first.agent, first.model)
    await said(world, server, "another session", agent="droid")
    assert reads(wire) == 1


async def test_settings_that_changed_elsewhere_hold_for_the_next_message(world: World) -> None:
    server = await world.program()
    await put(world, default_agent="guide")
    assert (await said(world, server, "help")).agent == "guide"
    await put(world, default_agent="droid", system_prompt="Be brief.")
    turn = await said(world, server, "help")
    assert turn.agent == "droid"
    assert asked(world)["messages"][0] == {"role": "system", "content": "Be brief."}
    await put(world, default_agent="droid", system_prompt="Be long.")
    await said(world, server, "more", str(turn.session_id))
    assert asked(world)["messages"][0] == {"role": "system", "content": "Be long."}


async def test_a_default_that_is_no_more_does_not_refuse_the_message(world: World) -> None:
    server = await world.program()
    await put(world, default_agent="droid", allowed_agents=["droid"])
    await said(world, server, "hello")
    await put(world, default_agent="guide", allowed_agents=["guide"])
    with pytest.raises(NotFoundError):
        await said(world, server, "still", agent="droid")
    assert (await said(world, server, "help")).agent == "guide"


async def test_parameters_that_another_program_has_set_hold_for_the_next_message(world: World) -> None:
    server = await world.program()
    turn = await said(world, server, "hello", agent="droid")
    await said(world, server, "more", str(turn.session_id))
    assert "temperature" not in asked(world)
    await world.owner.execute(
        """UPDATE public.chat_sessions SET metadata = '{"temperature": 0.25}' WHERE id = $1""", turn.session_id
    )
    await said(world, server, "colder", str(turn.session_id))
    assert asked(world)["temperature"] == 0.25


async def test_the_agent_that_another_process_has_gone_on_with_answers_the_next_message(world: World) -> None:
    one, two = await world.program(), await world.program()
    turn = await said(world, one, "hello", agent="droid")
    await said(world, two, "help", str(turn.session_id), agent="guide")
    assert (await said(world, one, "and you are?", str(turn.session_id))).agent == "guide"


async def test_a_message_whose_begin_was_lost_begins_once_and_with_what_has_changed(world: World) -> None:
    wire, url = await world.wire()
    server = await world.program(url)
    turn = await said(world, server, "hello", agent="droid")
    for how in (Break.BEFORE, Break.AFTER):
        await put(world, system_prompt=f"Be {how}.")
        before = await world.turns()
        wire.break_at("begin_turn_2", how)
        await said(world, server, "more", str(turn.session_id))
        assert await world.turns() == before + 1
        assert asked(world)["messages"][0]["content"] == f"Be {how}."


def known(session_id: SessionId | None, size: int = 10) -> Defaults:
    return Defaults(
        session_id=session_id, settings={}, metadata={}, settings_digest=None, metadata_digest=None, size=size
    )


def test_what_is_known_is_of_one_user_in_one_organisation_and_bounded() -> None:
    ann = Principal(UserId(new_id()), OrgId(new_id()), Role.MEMBER)
    elsewhere = Principal(ann.user_id, OrgId(new_id()), Role.MEMBER)
    other = Principal(UserId(new_id()), ann.org_id, Role.MEMBER)
    here = KnownDefaults(SystemClock())
    session = SessionId(new_id())
    here.keep(ann, known(session))
    assert here.find(ann, session) == known(session)
    assert [here.find(ann, None), here.find(elsewhere, session), here.find(other, session)] == [None] * 3
    here.forget(ann, session)
    assert here.find(ann, session) is None
    here.keep(ann, known(session, size=100_000_000))
    assert here.find(ann, session) is None
