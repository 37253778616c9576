"""What the pages say of defaults, names and places is what the program has."""

import os
import re
import sys
import tomllib
from pathlib import Path

import click
import pytest

from agentapi_mcp import __version__
from agentapi_mcp.backends.registry import builtin_names
from agentapi_mcp.cli.known_clients import NAMES as CLIENTS
from agentapi_mcp.cli.main import main
from agentapi_mcp.cli.providers import PROVIDERS
from agentapi_mcp.settings import Settings, for_serving
from agentapi_mcp.stores.postgres.server.paths import default_home
from tests.support.settings_example import variable, written

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
WITH_DEFAULT = [name for name, field in Settings.model_fields.items() if field.default not in {None, "", ()}]
PAGES_ON_THE_HOME = ["configuration.md", "security.md"]


def row_of(page: str, name: str) -> str:
    """Find the row of a table whose first cell has this name."""
    rows = (line.split("|") for line in page.splitlines() if line.startswith("|"))
    return next("|".join(cells[2:]) for cells in rows if f"`{name}" in cells[1])


@pytest.mark.parametrize("name", WITH_DEFAULT)
def test_the_default_of_a_setting_is_the_one_that_the_page_says(name: str) -> None:
    default = written(Settings.model_fields[name].default).lower()
    assert re.search(rf"\(`?{re.escape(default)}`?[;)]", row_of(CONFIGURATION, variable(name)))


@pytest.mark.parametrize("page", PAGES_ON_THE_HOME)
def test_the_home_is_where_the_pages_say(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for uid, platform in ((0, "linux"), (1000, "linux"), (1000, "darwin")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.setattr(sys, "platform", platform)
        assert f"`{default_home({'HOME': '~'})}`" in text


def test_where_the_data_is_is_linked_from_the_variable_that_changes_it() -> None:
    assert "](#where-the-file-is)" in row_of(CONFIGURATION, "AGENTAPI_HOME")


def test_the_address_of_serve_is_the_one_that_the_pages_say() -> None:
    defaults = {option.name: option.default for option in main.commands["serve"].params}
    said = row_of((DOCS / "commands.md").read_text(encoding="utf-8"), "--host")
    assert f"({defaults['host']}, {defaults['port']})" in said
    assert f"the default is {defaults['port']}." in (DOCS / "how-to" / "serve.md").read_text(encoding="utf-8")
    names = {
        each for option in main.commands["serve"].params if isinstance(option, click.Option) for each in option.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)", _section("commands.md", "serve"))) - {"--help"} == names - {"-h", "--help"}


def _section(page: str, heading: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_samples_name_this_version() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "how-to").glob("*.md"))
    assert set(re.findall(r"^agentapi-mcp (\d+\.\d+\.\d+) serves", pages, re.MULTILINE)) == {__version__}


def test_the_agents_that_come_with_it_are_those_of_the_page() -> None:
    packaged = tomllib.loads((ROOT / "src" / "agentapi_mcp" / "defaults.toml").read_text(encoding="utf-8"))["agents"]
    page = (DOCS / "agents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", _section("agents.md", "Which agents there are"), re.MULTILINE)
    assert sorted(rows) == sorted(packaged)
    defaults = {each["default_model"] for each in packaged.values() if "default_model" in each}
    assert [model for model in defaults if f"`{model}` of" not in page] == []


def test_the_clients_of_connect_are_those_of_the_page() -> None:
    sentence = re.search(
        r"The clients are (.*?)\. `connect`", _section("how-to/connect-a-client.md", "By one command"), re.DOTALL
    )
    assert sentence is not None
    assert sorted(re.findall(r"`([\w-]+)`", sentence[1])) == sorted(CLIENTS)


def test_the_providers_of_agents_add_are_those_of_the_pages() -> None:
    remote = _section("how-to/add-openrouter.md", "A provider's own key instead")
    local = _section("how-to/add-a-local-model.md", "By one command")
    named = re.search(r"agents add (\w+)` \(or (.*?)\)", remote, re.DOTALL)
    here = re.search(r"agents add (\w+) +# or (.*)", local)
    assert named is not None
    assert here is not None
    known = [named[1], *re.findall(r"\w+", named[2]), here[1], *re.findall(r"\w+", here[2]), "openrouter"]
    assert sorted(known) == sorted(PROVIDERS)


def test_the_backends_are_those_of_the_page() -> None:
    said = row_of(CONFIGURATION, "backend").partition(", or [")[0]
    assert sorted(re.findall(r"`(\w+)`", said)) == sorted(builtin_names())


def test_the_defaults_of_serve_are_those_that_the_page_says() -> None:
    alone, serving = Settings.model_construct(), for_serving(Settings.model_construct())
    differ = [name for name in Settings.model_fields if getattr(alone, name) != getattr(serving, name)]
    assert len(differ) == 3
    for name in differ:
        value = getattr(serving, name)
        assert re.search(
            rf"; `serve` `?{value if isinstance(value, str) else f'{value:g}'}`?\)",
            row_of(CONFIGURATION, variable(name)),
        )
