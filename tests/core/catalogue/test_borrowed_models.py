"""An agent without models of its own borrows one that its caller named for it, and no other."""

from dataclasses import replace

import pytest

from agentapi_mcp.base.errors import InvalidRequestError, NotFoundError
from agentapi_mcp.core.backends.ports import Backend, Capability
from agentapi_mcp.core.catalogue.means import NO_MEANS
from agentapi_mcp.core.catalogue.models import (
    AgentDeclaration,
    AgentPreferences,
    OrganizationSettings,
    Preferences,
)
from agentapi_mcp.core.keys.models import KeySource
from agentapi_mcp.stores.postgres.database import Database
from tests.core.catalogue.test_agents import NO_KEY, Scene
from tests.core.catalogue.test_own_keys import keys_for
from tests.support.catalogues import CheckedBackend, agent_row, declared, model_row

CAPABILITIES = {
    "guide": {Capability.BORROWS_MODELS, Capability.LIVE, Capability.STOPS_BILLING},
    "stops": {Capability.STOPS_BILLING},
    "bills_on": set[Capability](),
    "keeps": {Capability.RESUME},
    "takes": {Capability.OWN_KEYS},
}
CAPABILITIES_OF_BOTH = frozenset({Capability.BORROWS_MODELS, Capability.STOPS_BILLING})


def scene(default_model: str | None = None) -> Scene:
    def build(declaration: AgentDeclaration) -> Backend:
        return CheckedBackend(capabilities=frozenset(CAPABILITIES[declaration.name]))

    return Scene(
        rows=(
            agent_row("guide"),
            agent_row("stops", model_row("s"), model_row("off", enabled=False)),
            agent_row("bills_on", model_row("b")),
            agent_row("keeps", model_row("k")),
        ),
        declarations=(
            declared("stops", "s", "off"),
            declared("bills_on", "b"),
            declared("keeps", "k"),
            replace(declared("guide", backend="guide"), default_model=default_model),
        ),
        build=build,
    )


async def test_no_default_of_all_agents_is_an_agreement() -> None:
    choice = await scene().agents.resolve(
        agent="guide",
        preferences=Preferences(default_model="s"),
        settings=OrganizationSettings(default_model="s"),
    )
    assert (choice.model, choice.writer, choice.lender) == (None, None, None)


@pytest.mark.parametrize("named", ["s", "vendor/s", "stops/s"])
async def test_a_model_of_another_agent_is_taken_by_each_of_its_names(named: str) -> None:
    choice = await scene().agents.resolve(agent="guide", model=named)
    assert choice.agent == "guide"
    assert choice.model is not None
    assert choice.writer is not None
    assert (choice.model.name, choice.writer.agent, choice.writer.model) == ("s", "stops", "s")


async def test_a_model_of_several_agents_is_lent_by_the_one_that_is_named_and_by_no_other() -> None:
    def build(_declaration: AgentDeclaration) -> Backend:
        return CheckedBackend(capabilities=CAPABILITIES_OF_BOTH)

    both = Scene(
        rows=(agent_row("guide"), agent_row("one", model_row("s")), agent_row("two", model_row("s"))),
        declarations=(declared("one", "s"), declared("two", "s"), declared("guide", backend="guide")),
        build=build,
    )
    for given in ("one/s", "two/s"):
        choice = await both.agents.resolve(agent="guide", model=given)
        assert choice.writer is not None
        assert f"{choice.writer.agent}/{choice.writer.model}" == given
    with pytest.raises(InvalidRequestError, match="Several agents have a model 's': name one of one/s, two/s"):
        await both.agents.resolve(agent="guide", model="s")
    for agreed in ("one/s", "two/s"):
        choice = await both.agents.resolve(agent="guide", session_model=agreed)
        assert choice.writer is not None
        assert f"{choice.writer.agent}/{choice.writer.model}" == choice.model_name == agreed


@pytest.mark.parametrize(
    ("agreed", "lacks"),
    [
        # The id of a model of stops is vendor/s, which an agent of that name could have had as well.
        ("vendor/s", "There is no agent vendor that you may use any more. "),
        ("gone/s", "There is no agent gone that you may use any more. "),
        ("bills_on/s", "The agent bills_on has no model 's' that you may use any more. "),
        ("guide/s", "There is no agent guide that you may use any more. "),
    ],
)
async def test_what_a_session_agreed_on_is_lent_by_no_other_agent_and_the_words_say_what_to_do(
    agreed: str, lacks: str
) -> None:
    mine = Preferences(agents={"guide": AgentPreferences(model="b")})
    choice = await scene("stops/s").agents.resolve(agent="guide", session_model=agreed, preferences=mine)
    assert choice.writer is not None
    assert (choice.model, choice.lender, choice.key, choice.writer.run) == (None, None, None, None)
    assert choice.writer.lacks.startswith(lacks)
    assert choice.writer.lacks.endswith("name another model, as AGENT/MODEL, or off to go on without.")
    assert choice.model_name == agreed  # so that the next turn of the session is told as well


async def test_who_switches_it_off_is_answered_without_a_model_until_another_is_named() -> None:
    mine = Preferences(agents={"guide": AgentPreferences(model="b")})
    for given in ({"model": "off", "session_model": "stops/s"}, {"session_model": "off"}):
        choice = await scene("stops/s").agents.resolve(agent="guide", preferences=mine, **given)  # type: ignore[arg-type]  # as the test says
        assert (choice.model, choice.lender, choice.writer, choice.model_name) == (None, None, None, "off")


async def test_the_call_goes_before_the_session_the_preference_and_the_file() -> None:
    mine = Preferences(agents={"guide": AgentPreferences(model="b")})

    async def lender(at: Scene, **given: object) -> str | None:
        choice = await at.agents.resolve(agent="guide", **given)  # type: ignore[arg-type]  # as the test says
        return choice.writer and choice.writer.agent

    assert await lender(scene("stops/s")) == "stops"
    assert await lender(scene("stops/s"), preferences=mine) == "bills_on"
    assert await lender(scene(), preferences=mine, session_model="stops/s") == "stops"
    assert await lender(scene(), preferences=mine, session_model="stops/s", model="b") == "bills_on"


async def test_what_it_bills_is_stopped_as_the_lender_can_and_never_asked_again_by_itself() -> None:
    at = scene()
    alone, stops, bills_on = [
        (await at.agents.resolve(agent="guide", model=model)).capabilities for model in (None, "s", "b")
    ]
    assert {Capability.LIVE, Capability.STOPS_BILLING} <= alone
    assert Capability.STOPS_BILLING in stops
    assert Capability.STOPS_BILLING not in bills_on
    assert Capability.LIVE not in stops | bills_on


async def test_a_model_that_cannot_be_lent_is_refused_where_it_is_named_and_told_of_where_it_is_a_default() -> None:
    with pytest.raises(NotFoundError, match="No agent has a model 'nothing'; there are: b, k, s"):
        await scene().agents.resolve(agent="guide", model="nothing")
    with pytest.raises(InvalidRequestError, match="off of the agent stops is disabled"):
        await scene().agents.resolve(agent="guide", model="off")
    with pytest.raises(InvalidRequestError, match="keeps has conversations and tools of its own"):
        await scene().agents.resolve(agent="guide", model="k")
    for name in ("nothing", "off", "k"):
        choice = await scene(name).agents.resolve(agent="guide")
        assert choice.writer is not None
        assert (choice.model, choice.writer.run) == (None, None)
        assert choice.writer.lacks


async def test_what_the_organisation_does_not_allow_is_not_lent() -> None:
    for settings in (
        OrganizationSettings(allowed_agents=("guide", "bills_on")),
        OrganizationSettings(allowed_models=("b",)),
    ):
        with pytest.raises(NotFoundError, match="No agent has a model 's'"):
            await scene().agents.resolve(agent="guide", model="s", settings=settings)


def taking(*, key: bool = True) -> Scene:
    """Set up a guide for which the operator named a model, of an agent that takes keys; `key`: also the server's."""

    def build(declaration: AgentDeclaration) -> Backend:
        return CheckedBackend(capabilities=frozenset(CAPABILITIES[declaration.name]))

    return Scene(
        rows=(agent_row("guide"), agent_row("takes", model_row("m"), model_row("n"))),
        declarations=(
            replace(declared("takes", "m", "n"), missing=() if key else (NO_KEY,), lacks_key=not key),
            replace(declared("guide", backend="guide"), default_model="takes/m"),
        ),
        build=build,
    )


async def test_what_only_the_operator_named_no_key_of_a_user_pays(database: Database) -> None:
    means = replace(NO_MEANS, keys=await keys_for(database, "vendor"))
    mine = Preferences(agents={"guide": AgentPreferences(model="takes/m")})

    async def payer(**given: object) -> KeySource:
        return (await taking().agents.resolve(agent="guide", means=means, **given)).key_source  # type: ignore[arg-type]  # as the test says

    assert await payer() is KeySource.SERVER
    assert await payer(session_model="takes/m") is KeySource.SERVER  # as the turn before left it
    for agreed in ({"model": "m"}, {"preferences": mine}, {"session_model": "takes/n"}):
        assert await payer(**agreed) is KeySource.USER


async def test_where_the_server_has_no_key_only_a_user_who_agreed_pays(database: Database) -> None:
    means = replace(NO_MEANS, keys=await keys_for(database, "vendor"))
    unasked = await taking(key=False).agents.resolve(agent="guide", means=means)
    assert unasked.writer is not None
    assert (unasked.writer.run, unasked.key) == (None, None)
    assert NO_KEY in unasked.writer.lacks
    for agreed in ({"model": "m"}, {"session_model": "takes/m"}):
        choice = await taking(key=False).agents.resolve(agent="guide", means=means, **agreed)  # type: ignore[arg-type]  # as the test says
        assert choice.key_source is KeySource.USER
