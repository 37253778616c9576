"""The program as it was before, to run beside this one on the same database."""

import atexit
import os
import shutil
import subprocess
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from chaos.processes import ROOT

_VARIABLE = "PREVIOUS"
# The last commit whose engine of turns wrote in several transactions and asked before it noted that.
_LAST = "f529ab5"


def previous() -> str:
    """Return which commit stands for the version before."""
    return os.environ.get(_VARIABLE) or _LAST  # noqa: TID251  # of the harness, not of the program


def cannot_check_out() -> str | None:
    """Return why the version before cannot be run here."""
    words = ["git", "rev-parse", "--verify", "--quiet", f"{previous()}^{{commit}}"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)  # noqa: S603  # git, on our own checkout
    return None if found.returncode == 0 else f"needs the commit {previous()}, or another one in {_VARIABLE}"


def check_out() -> Path:
    """Return the source of the version before, in a directory that goes with this process."""
    words = ["git", "archive", previous(), "src"]
    packed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)  # noqa: S603  # git, on our own checkout
    place = Path(tempfile.mkdtemp(prefix="chaos-previous-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(place, filter="data")
    return place / "src"
