"""What `make audit` makes of pip-audit's report and of our own list, which names locked packages alone."""

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCK = "one==1 \\\n    --hash=sha256:0\ntwo==2\n"
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


@pytest.mark.parametrize(
    ("bad", "blind", "offline", "status"),
    [
        ([], [], "", 0),
        (["a 1: CVE"], [], "", 1),
        ([], ["x.lock"], "", 1),
        ([], ["x.lock"], "yes", 1),
        ([], ["x.lock"], "allowed", 0),
        (["a 1: CVE"], ["x.lock"], "allowed", 1),
    ],
)
def test_an_audit_that_looked_nothing_up_fails_unless_that_was_allowed(
    audit: ModuleType, bad: list[str], blind: list[str], offline: str, status: int
) -> None:
    found, text = audit.outcome(bad, blind, offline)
    assert found == status
    assert ("NOT AUDITED: nothing of x.lock" in text) is bool(blind)
    assert ("VULNERABLE: a 1: CVE" in text) is bool(bad)
    assert (status == 1) or not blind or "let pass by AUDIT_OFFLINE=allowed" in text


@pytest.mark.parametrize(("answer", "status"), [("", 1), ("{skipped}", 1), ("{found}", 0)])
def test_the_script_fails_where_no_package_was_looked_up(
    audit: ModuleType, answer: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pip-audit of our own making: what it prints is what matters here.
    monkeypatch.delenv("AUDIT_OFFLINE", raising=False)
    asked: list[dict[str, object]] = [{"name": name, "skip_reason": "no"} for name in audit.pins(LOCK)]
    if answer == "{found}":
        asked[0] = {"name": "one", "version": "1", "vulns": []}
    (tmp_path / "pip_audit.py").write_text(
        f"print({json.dumps(json.dumps({'dependencies': asked}) if answer else 'no route')})", encoding="utf-8"
    )
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "advisories.toml").write_text("advisory = []", encoding="utf-8")
    for name in audit.LOCKS:
        (tmp_path / name).write_text(LOCK, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    assert audit.main() == status


def test_our_list_names_what_is_locked(audit: ModuleType) -> None:
    listed = tomllib.loads((ROOT / "scripts" / "advisories.toml").read_text(encoding="utf-8"))["advisory"]
    locked = [audit.pins((ROOT / name).read_text(encoding="utf-8")) for name in audit.LOCKS]
    assert [one["package"] for one in listed if not any(one["package"] in pinned for pinned in locked)] == []
    assert [each for pinned in locked for each in audit.known(pinned, listed)] == []
