"""The models out of the box: what they cost, which of them are withdrawn, and that no default is."""

import re
from datetime import UTC, date, datetime, timedelta

import pytest

from agentapi_mcp.cli.providers import PROVIDERS
from agentapi_mcp.core.catalogue.models import ModelDeclaration
from agentapi_mcp.core.catalogue.price_list import shipped_prices
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, load_catalogue

COMPARED_ON = date(2026, 11, 29)  # the day of the price lists that defaults.toml names
READ_ON = datetime.combine(shipped_prices().on, datetime.min.time(), UTC)
LONG_ENOUGH = timedelta(days=92)

AGENTS = {
    agent.name: agent
    for agent in load_catalogue([DEFAULTS], {}, lambda: ("ccrouter", "droid", "guide", "openai")).agents
}
MODELS = [model for agent in AGENTS.values() for model in agent.models]
DEFAULT_MODELS = [(agent.name, agent.default_model) for agent in AGENTS.values() if agent.default_model]
SEEDED = {
    *("gemini-1.5-pro", "gemini-1.5-flash", "gemini-2.0-pro"),
    *("claude-3-opus", "claude-3-5-sonnet", "gpt-4-turbo", "gpt-4o"),
}


def withdrawn_on(model: ModelDeclaration) -> date | None:
    """Return the day of withdrawal in the description, None if it warns of none."""
    warned = re.match(r"(?:To be w|W)ithdrawn (?:by \w+ on|before) (\d{4}-\d\d-\d\d)", model.description or "")
    return date.fromisoformat(warned[1]) if warned else None


@pytest.mark.parametrize(("agent", "name"), DEFAULT_MODELS)
def test_the_default_model_of_an_agent_has_a_price_and_outlives_the_day_of_its_price_list(
    agent: str, name: str
) -> None:
    [model] = [model for model in AGENTS[agent].models if model.name == name]
    assert withdrawn_on(model) is None
    assert model.context_window is not None
    assert not model.prices.is_known  # a second list beside the one that comes with the program
    prices = shipped_prices().prices(model.provider, model.model_id, READ_ON)
    assert prices is not None
    assert prices.input
    assert prices.output


@pytest.mark.parametrize("name", sorted(name for name, one in PROVIDERS.items() if one.default_model is not None))
def test_the_default_model_of_a_provider_that_can_be_added_is_a_shipped_one_that_lasts(name: str) -> None:
    wanted = PROVIDERS[name].default_model
    found = [model for model in MODELS if wanted in {model.name, model.model_id}]
    assert [withdrawn_on(model) for model in found[:1]] == [None]


def test_exactly_the_seven_seeded_models_are_marked_as_withdrawn_and_none_is_missing() -> None:
    days = {model.name: withdrawn_on(model) for model in MODELS}
    assert days.keys() >= SEEDED
    assert {name for name, day in days.items() if day is not None} == SEEDED
    assert all(day < COMPARED_ON + LONG_ENOUGH for day in days.values() if day is not None)


def test_a_model_that_is_named_without_its_agent_is_of_one_agent_alone() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)


def test_a_withdrawn_model_names_one_of_the_same_agent_that_is_not() -> None:
    for agent in AGENTS.values():
        lasting = {model.name for model in agent.models if withdrawn_on(model) is None}
        for model in agent.models:
            if withdrawn_on(model) is not None:
                found = re.search(r" Here instead: (\S+)\.$", model.description or "")
                assert found is not None
                assert found[1] in lasting


def test_nearly_every_shipped_model_is_in_the_list_of_prices() -> None:
    listed = [model.name for model in MODELS if shipped_prices().prices(model.provider, model.model_id, READ_ON)]
    assert {model.name for model in MODELS} - set(listed) == {"gemini-2.0-pro"}  # which is in no list
