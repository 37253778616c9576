"""Clocks that jump, by libfaketime where this machine has it."""

import os
import platform
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

_VARIABLE = "LIBFAKETIME"
_DEBIAN = "/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"
_WHEEL = "vendor/libfaketime/src/libfaketime.so.1"


def find_library() -> Path | None:
    """Find libfaketime: where the variable says, as Debian installs it, or in the package of PyPI."""
    named = os.environ.get(_VARIABLE)  # noqa: TID251  # of the harness, not of the program
    if named:
        return Path(named)
    places = [Path(_DEBIAN.format(machine=platform.machine()))]
    wheel = find_spec("libfaketime")
    if wheel is not None and wheel.origin is not None:
        places.append(Path(wheel.origin).parent / _WHEEL)
    return next((place for place in places if place.is_file()), None)


def cannot_jump() -> str | None:
    """Return why no clock can jump here."""
    if find_library() is None:
        return f"needs libfaketime: install the package of your system or of PyPI, or name the library in {_VARIABLE}"
    return None


def jumping() -> dict[str, str]:
    """Return the environment of a process whose clock jumps as the world's file says; its timers run on."""
    return {
        "LD_PRELOAD": str(find_library()),
        "FAKETIME_TIMESTAMP_FILE": "{place}/clock",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def clock_file(place: Path) -> Path:
    """Return the file that says how many seconds the clocks of a world are off."""
    return place / "clock"


def placed(env: Mapping[str, str], place: Path) -> dict[str, str]:
    """Fill the place of a world into an environment."""
    return {name: value.replace("{place}", str(place)) for name, value in env.items()}
