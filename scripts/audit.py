"""Look for known vulnerabilities of what the locks pin: fail where there is one, or where none could be looked up."""  # noqa: INP001  # a script

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_AUDIT = ("pip_audit", "--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=10")


def pins(lock: str) -> dict[str, str]:
    """Read the packages of a lock with their versions."""
    return dict(_PINNED.findall(lock))


def found(report: Mapping[str, Any]) -> list[str]:
    """List the vulnerabilities that pip-audit reports."""
    return [
        f"{each['name']} {each['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version yet'}"
        for each in report["dependencies"]
        for one in each.get("vulns", ())
    ]


def not_looked_up(report: Mapping[str, Any], pinned: Iterable[str]) -> list[str]:
    """List the packages of which pip-audit found out nothing, those of other platforms too."""
    asked = {each["name"] for each in report["dependencies"] if "vulns" in each}
    return sorted(set(pinned) - asked)


def known(pinned: Mapping[str, str], advisories: Iterable[Mapping[str, str]]) -> list[str]:
    """List the versions that are older than the first one without a vulnerability of our own list."""
    return [
        f"{one['package']} {pinned[one['package']]}: {one['id']}, fixed in {one['fixed']}"
        for one in advisories
        if one["package"] in pinned and Version(pinned[one["package"]]) < Version(one["fixed"])
    ]


def ask(lock: Path) -> tuple[Mapping[str, Any] | None, str]:
    """Run pip-audit; without a report its last word says why there is none."""
    command = [sys.executable, "-m", *_AUDIT, "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def outcome(bad: Sequence[str], blind: Sequence[str], offline: str) -> tuple[int, str]:
    """Return the exit status and the last words; `blind` are the locks of which nothing was looked up."""
    text = "".join(f"VULNERABLE: {each}\n" for each in bad)
    allowed = offline == "allowed"
    if blind:
        text += f"NOT AUDITED: nothing of {', '.join(blind)} was looked up: pip-audit's service was not reached.\n"
        text += (
            "This run was let pass by AUDIT_OFFLINE=allowed: it says nothing of vulnerabilities newer than our list.\n"
            if allowed
            else "Run it where the service can be reached, or let it pass with AUDIT_OFFLINE=allowed.\n"
        )
    return int(bool(bad) or (bool(blind) and not allowed)), text


def main() -> int:
    """Audit every lock."""
    advisories = tomllib.loads((ROOT / "scripts" / "advisories.toml").read_text(encoding="utf-8"))["advisory"]
    bad: list[str] = []
    blind: list[str] = []
    for name in LOCKS:
        pinned = pins((ROOT / name).read_text(encoding="utf-8"))
        report, why = ask(ROOT / name)
        unknown = sorted(pinned) if report is None else not_looked_up(report, pinned)
        if len(unknown) == len(pinned):
            blind.append(name)
        if report is None:
            sys.stdout.write(f"{name}: NOT LOOKED UP: pip-audit could not ask its service ({why}).\n")
        elif unknown:
            some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > len(unknown[:5]) else "")
            sys.stdout.write(f"{name}: NOT LOOKED UP: {len(unknown)} of {len(pinned)} packages ({some}).\n")
        bad += [f"{name}: {each}" for each in (*(found(report) if report else ()), *known(pinned, advisories))]
        sys.stdout.write(f"{name}: {len(pinned)} packages compared with scripts/advisories.toml.\n")
    status, text = outcome(bad, blind, os.environ.get("AUDIT_OFFLINE", ""))  # noqa: TID251  # a script has no settings
    sys.stdout.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
