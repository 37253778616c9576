"""The programs that tests and trials run are pinned, with hashes, and their newest versions are found."""

import itertools
import json
import re
from pathlib import Path

import pytest
from clients.__main__ import parse
from clients.programs import PROMPTED

from tests.support import npm_peers

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "clients" / "python"
MANIFESTS = sorted((ROOT / "tests" / "support").glob("*/package.json"))
# Semantic Versioning 2.0, section 11.4.4, and a release before and after.
IN_ORDER = ("0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11")
IN_ORDER_TO_THE_END = (*IN_ORDER, "1.0.0-rc.1", "1.0.0", "1.0.10", "1.10.0")


def test_versions_are_ordered_as_semantic_versioning_says() -> None:
    for older, newer in itertools.combinations(IN_ORDER_TO_THE_END, 2):
        assert npm_peers.precedence(older) < npm_peers.precedence(newer), (older, newer)


def test_what_is_no_version_is_never_the_newest() -> None:
    assert max(["1.0.0-alpha", "latest"], key=npm_peers.precedence) == "1.0.0-alpha"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest.parent.name)
def test_an_npm_project_is_locked_with_hashes_and_names_no_index(manifest: Path) -> None:
    pinned = npm_peers.pins(manifest.parent)
    assert all(re.fullmatch(r"(?:npm:.+@)?\d[\w.-]*", pin) for pin in pinned.values()), pinned
    packages = json.loads(manifest.with_name("package-lock.json").read_bytes())["packages"]
    for path, package in packages.items():
        assert not path or package.get("link") or "integrity" in package, path
        assert "resolved" not in package, path


def test_every_python_client_has_a_lock_of_its_own() -> None:
    wanted = {file.stem for file in PYTHON.glob("*.in")}
    assert wanted == {file.stem for file in PYTHON.glob("*.lock")}
    assert wanted <= {name.replace("-", "_") for name in PROMPTED}
    for lock in PYTHON.glob("*.lock"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "http" not in re.sub(r"^[\w-]*http[\w-]*==", "", text, flags=re.MULTILINE), lock


def test_a_trial_that_there_is_not_is_refused_before_anything_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["codex", "--trials", "chat, first turn"]).trials == ["chat", "first turn"]
    with pytest.raises(SystemExit):
        parse(["codex", "--trials", "chat stop"])
    assert "there is no trial chat stop; there are: first turn, declares, chat," in capsys.readouterr().err
