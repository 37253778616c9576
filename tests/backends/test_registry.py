"""Backends are found by name, and nothing else is imported."""

import importlib
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path

import pytest
from pydantic import BaseModel
from typing_extensions import override

from agentapi_mcp.backends import kinds, registry
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.testing.hosts import FakeHost

PAGES = Path(__file__).resolve().parents[2] / "docs" / "backends"
PLUGIN = """
def create(options, host):
    return ("made", dict(options), host)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Path]:
    metadata = tmp_path / "some_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{registry.ENTRY_POINT_GROUP}]\n"
        "spoken = agentapi_some_plugin:create\nbroken = agentapi_no_such_module:create\nopenai = agentapi_no:create\n"
    )
    (tmp_path / "agentapi_some_plugin.py").write_text(PLUGIN)
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    sys.path.remove(str(tmp_path))


def test_the_kinds_are_the_modules_of_their_folder() -> None:
    assert "openai" in registry.builtin_names()
    assert all(not name.startswith("_") for name in registry.builtin_names())


@pytest.mark.parametrize("name", ["nope", "", "../openai", "openai.sub", "os", "kinds.openai", "__init__"])
def test_an_unknown_backend_is_refused_with_those_that_exist(name: str) -> None:
    before = set(sys.modules)
    with pytest.raises(ConfigurationError, match=r"there are: .*openai"):
        registry.create(name, {}, FakeHost())
    assert not {module for module in set(sys.modules) - before if "agentapi_mcp.backends.kinds" in module}


def test_an_installed_backend_is_made_by_its_entry_point(plugins: Path) -> None:
    assert plugins.exists()
    host = FakeHost()
    assert "spoken" in registry.names()
    made: object = registry.create("spoken", {"a": 1}, host)
    assert made == ("made", {"a": 1}, host)


class Finder(DistributionFinder):
    """Finds no package, and counts how often all were looked for."""

    searches = 0

    @override
    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterable[Distribution]:
        """Find none."""
        self.searches += 1
        return ()


def test_what_is_installed_is_not_searched_for_a_built_in_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    assert "openai" in registry.names()
    assert finder.searches == 0
    assert "nope" not in registry.names()
    assert finder.searches == 1
    assert len(registry.names()) == len(list(registry.names()))


def test_a_built_in_backend_is_not_replaced_by_an_installed_one(plugins: Path) -> None:
    assert plugins.exists()
    with pytest.raises(ConfigurationError, match="base_url is missing"):
        registry.create("openai", {}, FakeHost())


def test_an_installed_backend_that_cannot_be_loaded_is_named(plugins: Path) -> None:
    assert plugins.exists()
    with pytest.raises(ConfigurationError, match="'broken' cannot be loaded"):
        registry.create("broken", {}, FakeHost())


@pytest.mark.parametrize("kind", registry.builtin_names())
def test_every_kind_has_its_page_which_explains_each_option(kind: str) -> None:
    page = (PAGES / f"{kind}.md").read_text(encoding="utf-8")
    module = importlib.import_module(f"{kinds.__name__}.{kind}")
    models = {value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseModel)}
    models -= {base for model in models for base in model.__mro__[1:]}
    own = [model for model in models if model.__module__ == module.__name__]
    assert len(own) == (kind != "guide")  # which has no options
    for model in models:
        assert [name for name in model.model_fields if f"`{name}`" not in page] == []
        assert model.__module__ != module.__name__ or f"docs/backends/{kind}.md" in str(model.__doc__)
