"""What `make audit` makes of pip-audit's report and of our own list, which names locked packages alone."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
REPORT: dict[str, list[dict[str, object]]] = {
    "dependencies": [
        {"name": "sound", "version": "2.0", "vulns": []},
        {"name": "weak", "version": "1.0", "vulns": [{"id": "CVE-2024-1", "fix_versions": ["1.1"]}]},
        {"name": "hopeless", "version": "1.0", "vulns": [{"id": "CVE-2024-2", "fix_versions": []}]},
        {"name": "unknown", "skip_reason": "Dependency not found on PyPI"},
    ]
}


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_report_is_read(audit: ModuleType) -> None:
    assert audit.found(REPORT) == [
        "weak 1.0: CVE-2024-1, fixed in 1.1",
        "hopeless 1.0: CVE-2024-2, fixed in no version yet",
    ]
    assert audit.not_looked_up(REPORT, ["sound", "weak", "unknown", "elsewhere"]) == ["elsewhere", "unknown"]


def test_a_version_of_our_list_that_is_too_old_is_found(audit: ModuleType) -> None:
    advisories = [{"package": "a", "id": "CVE-2024-3", "fixed": "1.10.0"}, {"package": "b", "id": "x", "fixed": "1"}]
    assert audit.known({"a": "1.9.9"}, advisories) == ["a 1.9.9: CVE-2024-3, fixed in 1.10.0"]
    assert audit.known({"a": "1.10.0"}, advisories) == []


def test_our_list_names_what_is_locked(audit: ModuleType) -> None:
    listed = tomllib.loads((ROOT / "scripts" / "advisories.toml").read_text(encoding="utf-8"))["advisory"]
    locked = [audit.pins((ROOT / name).read_text(encoding="utf-8")) for name in audit.LOCKS]
    assert [one["package"] for one in listed if not any(one["package"] in pinned for pinned in locked)] == []
    assert [each for pinned in locked for each in audit.known(pinned, listed)] == []
