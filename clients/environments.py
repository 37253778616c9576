"""Environments of Python clients, each made from a hashed lock of its own: some need `mcp` below 2."""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from chaos.processes import ROOT


def python_of(client: str) -> Path:
    """Return the interpreter of a client's environment, made by the first who asks.

    With TEST_LATEST_PEERS (`make try-latest`), which says when they were looked for, of the newest client instead,
    before its release, too.
    """
    lock = Path(__file__).parent / "python" / f"{client}.lock"
    latest = os.environ.get("TEST_LATEST_PEERS")  # noqa: TID251  # of the tests, not of the program
    place = ROOT / ".cache" / "python" / f"{client}-{latest or hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    python = place / "bin" / "python"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (place / "done").exists():
            what = ["--no-deps", "--require-hashes", "-r", lock]
            if latest:
                wanted = lock.with_suffix(".in").read_text()
                what = ["--pre", "--upgrade", *re.sub(r"==\S+", "", wanted).split()]
            install = [python, "-m", "pip", "install", "--quiet", *what]
            for words in ([sys.executable, "-m", "venv", "--clear", place], install):
                subprocess.run(list(map(str, words)), check=True)  # noqa: S603  # Python's own
            (place / "done").touch()
    return python
