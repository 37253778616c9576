"""Clocks that jump, by libfaketime where this machine has it."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from chaos.timing import now

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


@dataclass(frozen=True)
class JumpingClock:
    """The clock of Postgres in the world of a place, which is put ahead again and again; it never goes back."""

    place: Path
    # From when on it is how many seconds ahead.
    _jumps: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def put_ahead(self, seconds: int) -> None:
        """Let it jump. Whole seconds: what is written is what `real_time` counts with."""
        self._jumps.append((now(), seconds))
        clock_file(self.place).write_text(f"+{seconds}\n", encoding="utf-8")

    def today(self) -> datetime:
        """Return what it shows, in UTC."""
        return datetime.fromtimestamp(now() + (self._jumps[-1][1] if self._jumps else 0), UTC)

    def real_time(self, stamped: float) -> float:
        """Return when it was by the harness's clock, of a time that Postgres stamped."""
        return stamped - next((ahead for since, ahead in reversed(self._jumps) if since + ahead <= stamped), 0)


def placed(env: Mapping[str, str], place: Path) -> dict[str, str]:
    """Fill the place of a world into an environment."""
    return {name: value.replace("{place}", str(place)) for name, value in env.items()}
