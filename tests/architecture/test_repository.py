"""What the repository promises of itself."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agentapi_mcp import __version__
from agentapi_mcp.edges.mcp.options import McpOptions

ROOT = Path(__file__).parents[2]
HOSTS = ("files.pythonhosted" + ".org", "pypi" + ".org/simple", "registry.npmjs" + ".org", "deb.debian" + ".org")
SUPPRESSION = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[\w, -]+\])?|pragma: no cover)(?P<rest>.*)")


# The program as a process of its own, begun here or by a helper of the acceptance tests.
PROGRAM = re.compile(
    r'sys\.executable,\s*"-m",\s*"agentapi_mcp"|^from tests\.(?:acceptance\.|support\.command_runs)', re.MULTILINE
)


def tracked(*patterns: str) -> list[Path]:
    """List the files that git keeps; empty outside a checkout."""
    listed = subprocess.run(  # noqa: S603  # git, on our own checkout
        ["git", "ls-files", *patterns],  # noqa: S607  # wherever git is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines()]


def project() -> dict[str, Any]:
    """Read pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_no_file_names_a_package_index() -> None:
    found = [
        file.name
        for file in tracked()
        if any(host in file.read_text(encoding="utf-8", errors="replace") for host in HOSTS)
    ]
    assert found == []


def test_locks_pin_and_hash_everything_and_name_no_address() -> None:
    locks = tracked("requirements*.lock")
    assert len(locks) == 3
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        entries = re.split(r"\n(?=\S)", text.strip())
        assert [entry.splitlines()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
        assert "://" not in text


def test_every_kind_of_file_that_is_installed_makes_uvx_build_anew() -> None:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["cache-keys"]
    kinds = {file.suffix for file in tracked("src", "docs") if file.stat().st_size}
    assert {Path(key["file"]).suffix for key in read} >= kinds


def test_the_lock_has_every_dependency() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    names = [re.split(r"[<>=;\[ ]", line)[0] for line in project()["dependencies"]]
    assert [name for name in names if not re.search(rf"^{re.escape(name)}==", lock, re.MULTILINE)] == []


def test_the_version_stands_in_one_place() -> None:
    literal = re.compile(rf"[\"']{re.escape(__version__)}[\"']")
    files = tracked("pyproject.toml", "src/*.py", "scripts/*", "Containerfile")
    assert [file.name for file in files if literal.search(file.read_text(encoding="utf-8"))] == ["__init__.py"]
    assert version("agentapi-mcp") == McpOptions().version == __version__


def test_an_installed_lock_lacks_nothing_that_its_packages_ask_for() -> None:
    # scripts/setup resolves nothing, so this stands for what a resolver would have said.
    installed = {canonicalize_name(one.name): one for one in distributions()}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    asked = [Requirement(line) for line in [*project()["dependencies"], *groups["dev"]]]
    seen: set[str] = set()
    wrong: list[str] = []
    while asked:
        one = asked.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        have = installed.get(canonicalize_name(one.name))
        if have is None or not one.specifier.contains(have.version, prereleases=True):
            wrong.append(f"{one}: {have.version if have else 'nothing'} is installed")
            continue
        needs = [Requirement(line) for line in have.requires or ()]
        extras = one.extras or {""}
        asked += [need for need in needs if not need.marker or any(need.marker.evaluate({"extra": e}) for e in extras)]
    assert len(seen) > len(groups["dev"])
    assert wrong == []


def test_what_installs_a_lock_takes_it_as_it_is() -> None:
    files = [ROOT / "scripts" / "setup", ROOT / "Containerfile"]
    installs = [
        line for file in files for line in file.read_text(encoding="utf-8").splitlines() if "--require-hashes" in line
    ]
    assert len(installs) == 5
    assert [line for line in installs if "--no-deps" not in line] == []


def imported_at_once(tree: ast.Module) -> Iterator[str]:
    """Yield the packages that a module imports whatever the platform, which no `if` stands before."""
    for node in tree.body:
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(name), level=0):
                yield name.partition(".")[0]
            case _:
                pass


def test_what_is_not_installed_everywhere_is_not_imported_everywhere() -> None:
    asked = map(Requirement, project()["dependencies"])
    somewhere = {each.name.replace("-", "_") for each in asked if each.marker is not None}
    assert "uuid_utils" in somewhere
    files = tracked("src/*.py")
    assert files
    found = {file: somewhere & set(imported_at_once(ast.parse(file.read_text(encoding="utf-8")))) for file in files}
    assert {str(file): names for file, names in found.items() if names} == {}


def test_every_dependency_is_explained_and_its_major_capped() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    optional = [line for extra in project()["optional-dependencies"].values() for line in extra]
    for line in [*project()["dependencies"], *optional]:
        name = re.split(r"[<>=;\[ ]", line)[0]
        assert name in page
        assert "<" in line or "==" in line


def test_every_suppression_has_its_reason() -> None:
    found: list[str] = []
    for file in tracked("*.py"):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            match = SUPPRESSION.search(line)
            if match and "re.compile" not in line and "#" not in match["rest"]:
                found.append(f"{file.relative_to(ROOT)}:{number}")
    assert found == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_tests_that_start_the_program_are_marked() -> None:
    starting = [file for file in tracked("tests/**/test_*.py") if PROGRAM.search(file.read_text(encoding="utf-8"))]
    assert len(starting) > 3
    assert [file.name for file in starting if "pytest.mark.acceptance" not in file.read_text(encoding="utf-8")] == []
