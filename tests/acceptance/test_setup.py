"""`scripts/setup` at a terminal: how far it is, and what went wrong."""

import asyncio
import base64
import hashlib
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.terminals import plain, started_at_terminal

pytestmark = pytest.mark.acceptance
SETUP = Path(__file__).parents[2] / "scripts" / "setup"
_PROGRAMS = ("cat", "cksum", "date", "dirname", "grep", "rm", "sed", "sort")
# Builds an editable installation without anything that would have to be downloaded.
_BACKEND = """
import pathlib, shutil
def build_editable(directory, config_settings=None, metadata_directory=None):
    return shutil.copy(pathlib.Path("wheels/clone-1-py3-none-any.whl"), directory).rpartition("/")[2]
"""
_PROJECT = """
[project]
name = "clone"
version = "1"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def wheel(directory: Path, name: str) -> str:
    """Write a wheel with nothing in it, and return the line of a lock that pins it."""
    file, info = directory / f"{name}-1-py3-none-any.whl", f"{name}-1.dist-info"
    parts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()) for path, text in parts.items()}
    record = [f"{path},sha256={sums[path].decode().rstrip('=')},{len(text)}" for path, text in parts.items()]
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in (parts | {f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,"]) + "\n"}).items():
            archive.writestr(path, text)
    return f"{name}==1 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Make a clone that needs two packages to run and one to be built, all of which are in `wheels`."""
    for name in ("scripts", "wheels", "src/agentapi_mcp"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(SETUP, tmp_path / "scripts" / "setup")
    wheel(tmp_path / "wheels", "clone")
    one, two, builder = (wheel(tmp_path / "wheels", name) for name in ("one", "two", "builder_of_it"))
    for name, text in {
        "requirements.lock": "elsewhere==1 ; sys_platform == 'none' --hash=sha256:" + "0" * 64 + "\n" + one + two,
        "requirements-build.lock": builder,
        "pyproject.toml": _PROJECT,
        "backend.py": _BACKEND,
        "src/agentapi_mcp/__init__.py": "",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


async def set_up(clone: Path, **more: str) -> tuple[int, str]:
    """Run it at a terminal without uv, where pip has the clone's wheels and nothing else."""
    for name in _PROGRAMS:
        link = clone / "bin" / name
        link.parent.mkdir(exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(shutil.which(name) or "")
    env: Mapping[str, str] = {
        "PATH": str(clone / "bin"),
        "PYTHON": sys.executable,
        "TERM": "xterm",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(clone / "wheels"),
        **more,
    }

    def run() -> tuple[int, str]:
        with started_at_terminal(env, "/bin/sh", str(clone / "scripts" / "setup"), "run") as person:
            return person.leave(), plain(person.seen)

    return await asyncio.to_thread(run)


async def test_it_says_how_far_it_is(clone: Path) -> None:
    status, seen = await set_up(clone)
    assert status == 0, seen
    told = [each.strip() for each in re.findall(r"\d of 4: \w+", seen)]
    assert told == ["2 of 4: one", "3 of 4: two", "4 of 4: builder_of_it", "4 of 4: installing"], seen
    assert (clone / ".venv" / "stamp-run").exists()
    assert await set_up(clone) == (0, "")


async def test_a_terminal_that_cannot_go_back_in_a_line_gets_none(clone: Path) -> None:
    status, seen = await set_up(clone, TERM="dumb")
    assert (status, "of 4" in seen, len(seen.splitlines())) == (0, False, 2), seen


async def test_what_cannot_be_installed_is_told_and_ends_it(clone: Path) -> None:
    (clone / "wheels" / "two-1-py3-none-any.whl").unlink()
    status, seen = await set_up(clone)
    assert (status, "No matching distribution found for two==1" in seen) == (1, True), seen
    assert not (clone / ".venv" / "stamp-run").exists()
