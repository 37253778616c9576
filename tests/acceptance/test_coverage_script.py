"""`scripts/coverage`: what it measures, and which bounds it holds a run to."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).parents[2]
IMPORTS = "import agentapi_mcp.core.many, agentapi_mcp.more"
# As programs of the tests are started: elsewhere, and with an environment of their own.
IN_A_PROGRAM = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {IMPORTS!r}], cwd='/', env={{}}, check=True)"
)


def lines(number: int, *, unread: int = 1) -> str:
    """Write a module of so many statements, some of which are never run."""
    body = [f"x{n} = {n}" for n in range(number - unread - 1)]
    return "\n".join([*body, "def unread():", *(f"    y{n} = {n}" for n in range(unread)), ""])


def measured(place: Path, modules: Mapping[str, str], code: str) -> tuple[int, str]:
    """Run it in a clone that has these modules, for a command that runs this code; return its status and its report."""
    for name in ("pyproject.toml", "scripts/coverage"):
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    for name, text in {"__init__.py": "", "core/__init__.py": "", **modules}.items():
        file = place / "src" / "agentapi_mcp" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    venv.create(place / ".venv", symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(place / ".venv"), "platbase": str(place / ".venv")})
    found = [str(place / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    (Path(packages) / "_found.pth").write_text("\n".join(found), encoding="utf-8")  # read before the hook
    ran = subprocess.run(  # noqa: S603  # ours
        ["/bin/sh", str(place / "scripts" / "coverage"), ".venv/bin/python", "-c", code],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.stderr == ""
    assert not (Path(packages) / "agentapi_coverage.pth").exists()
    return ran.returncode, ran.stdout


@pytest.mark.parametrize("code", [IMPORTS, IN_A_PROGRAM])
def test_what_a_process_ran_counts_wherever_it_was_started(tmp_path: Path, code: str) -> None:
    status, report = measured(tmp_path, {"core/many.py": lines(100), "more.py": lines(100)}, code)
    totals = [line.split()[1:3] for line in report.splitlines() if line.startswith("TOTAL")]
    assert (status, totals) == (0, [["200", "2"], ["100", "1"]]), report


def test_a_module_that_no_process_reads_counts_too(tmp_path: Path) -> None:
    modules = {"core/many.py": lines(100), "more.py": lines(100), "forgotten.py": lines(20)}
    status, report = measured(tmp_path, modules, IMPORTS)
    (row,) = [each.split() for each in report.splitlines() if "forgotten.py" in each]
    assert (status, row[1:3], row[5]) == (1, ["20", "20"], "0%"), report


def test_core_is_held_to_more_than_the_rest(tmp_path: Path) -> None:
    modules = {"core/many.py": lines(100, unread=3), "more.py": lines(200)}
    status, report = measured(tmp_path, modules, IMPORTS)
    first, second = (line.split()[-1] for line in report.splitlines() if line.startswith("TOTAL"))
    assert (status, first, second) == (1, "99%", "97%"), report
