"""Programs that the tests run: the machine's, or Debian's, unpacked by `scripts/debian-program`."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_REQUIRED = os.environ.get("DEBIAN_PROGRAMS_REQUIRED") == "1"  # noqa: TID251  # of the tests, not of the program


def debian_program(name: str, *packages: str) -> Path:
    """Return a program that runs, fetched by the first who asks; skip the test where there is none, but not in CI.

    `packages` are those that it needs beside the one of its own name.
    """
    cache = _ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    script = ["sh", _ROOT / "scripts" / "debian-program", name, *packages]
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = subprocess.run(script, check=False, capture_output=True, text=True)  # noqa: S603  # ours
    if found.returncode != 0 and not _REQUIRED:
        pytest.skip(found.stderr.strip())
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.strip())
