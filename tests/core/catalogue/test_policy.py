"""What is read of an organisation's settings, which anyone with access to its row may have written."""

from dataclasses import asdict

import pytest

from agentapi_mcp.core.catalogue.catalogue import CatalogueEntry
from agentapi_mcp.core.catalogue.models import OrganizationSettings
from agentapi_mcp.core.catalogue.policy import LISTS, allowed, read_settings
from tests.support.catalogues import agent_row, declared, model_row

ENTRIES = [CatalogueEntry(row=agent_row("a", model_row("m")), declaration=declared("a", "m"), backend=None, missing=())]


@pytest.mark.parametrize("value", ["a", 7, True, {"a": True}, ["a", 7], [None]])
@pytest.mark.parametrize("name", sorted(LISTS))
def test_a_list_of_the_allowed_that_cannot_be_read_allows_nothing(name: str, value: object) -> None:
    settings = read_settings({name: value})
    assert {field: read for field, read in asdict(settings).items() if read is not None} == {name: ()}
    assert allowed(ENTRIES, settings) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_agent", 7),
        ("default_model", ""),
        ("temperature", "hot"),
        ("temperature", True),
        ("max_tokens", True),
        ("max_tokens", 0.5),
        ("system_prompt", []),
        ("allowed_agents", None),
        ("theme", "dark"),
    ],
)
def test_any_other_value_of_the_wrong_type_is_passed_over(name: str, value: object) -> None:
    assert read_settings({name: value}) == OrganizationSettings()


@pytest.mark.parametrize(
    ("limits", "unreadable"),
    [
        (None, []),
        ({}, []),
        ({"max_conversations": 0, "max_running_turns": 1.5, "max_running_bytes": -1, "max_agents": "many"}, []),
        ({"max_conversations": None}, []),
        ([], ["limits"]),
        ("two", ["limits"]),
        (7, ["limits"]),
        (
            {"max_conversations": "two", "max_running_turns": True, "max_running_bytes": {}},
            ["limits.max_conversations", "limits.max_running_turns", "limits.max_running_bytes"],
        ),
    ],
)
def test_limits_that_bound_nothing_are_told_in_the_log(
    limits: object, unreadable: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert read_settings({"limits": limits}) == OrganizationSettings()
    said = [(record.getMessage(), record.__dict__["setting"]) for record in caplog.records]
    assert said == [("organization_setting_unreadable", name) for name in unreadable]
