"""Find a uid that no account and no other program uses, for the server of a home of root's."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.base.errors import StoreUnavailableError

# Windows only imports this module.
# pyright: reportPossiblyUnboundVariable=false
if sys.platform != "win32":
    from grp import getgrgid
    from pwd import getpwuid

# Neither Linux distributions nor systemd give these to accounts, services or containers. The second span is for
# containers with a user namespace of 65,536 ids.
_SPANS = (range(65_536, 100_000), range(60_706, 61_184))
_DELEGATION = re.compile(r"^[^:#]*:(\d+):(\d+)\s*$", re.MULTILINE)
_IDS = re.compile(rb"^(?:Uid|Gid|Groups):(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class UnusedUids:
    """The uids of some spans that are unused on this machine, and as gids too.

    `delegated` says which ones an account may use in containers of its own, `maps` which ones our user namespace has,
    and `proc` which ones processes have.
    """

    spans: tuple[range, ...] = _SPANS
    delegated: tuple[Path, ...] = (Path("/etc/subuid"), Path("/etc/subgid"))
    maps: tuple[Path, ...] = (Path("/proc/self/uid_map"), Path("/proc/self/gid_map"))
    proc: Path = Path("/proc")

    def find(self, home: Path, taken: Iterable[int]) -> int:
        """Find one that is not taken: always the same for a home, if nothing else changes.

        Raises:
            StoreUnavailableError: there is none.
        """
        used = {*taken, *self._all_ids()}
        # Homes begin at different places, so that two get different ones although neither knows of the other.
        start = int.from_bytes(hashlib.sha256(os.fsencode(home)).digest()[:8], "big")
        unassigned = self._unassigned()
        for span in self.spans:
            for step in range(len(span)):
                uid = span[(start + step) % len(span)]
                if uid not in used and unassigned(uid):
                    return uid
        raise StoreUnavailableError(
            "Postgres refuses to run as root, and this machine has no uid to spare for it: run as another user, or set "
            "AGENTAPI_DATABASE_URL."
        )

    def has(self, uid: int) -> bool:
        """Return whether one that was found earlier is still unused."""
        return any(uid in span for span in self.spans) and self._unassigned()(uid) and not self._runs_something(uid)

    def _unassigned(self) -> Callable[[int], bool]:
        """Read what is delegated and mapped, and return the question whether a uid is nobody's yet."""
        delegated = [span for place in self.delegated for span in _delegated_spans(place)]
        maps = [spans for place in self.maps if (spans := _mapped_spans(place))]  # none without namespaces

        def is_unassigned(uid: int) -> bool:
            is_mapped = all(any(uid in span for span in spans) for spans in maps)
            return is_mapped and not any(uid in span for span in delegated) and not _has_account(uid)

        return is_unassigned

    def _all_ids(self) -> set[int]:
        """Return the uids and gids of all processes: real, effective, saved and supplementary ones."""
        if not self._has_proc():
            return _listed_uids()
        found: set[int] = set()
        for place in self._processes():
            for line in _IDS.findall(_read(place / "status")):
                found.update(map(int, line.split()))
        return found

    def _runs_something(self, uid: int) -> bool:
        """Whether a process runs as the uid; far cheaper than all ids, since each start of a server asks for it."""
        if not self._has_proc():
            return uid in _listed_uids()
        return any(_owner(place) == uid and _has_program(place) for place in self._processes())

    def _has_proc(self) -> bool:
        return (self.proc / "self" / "status").exists()

    def _processes(self) -> Iterator[Path]:
        return (place for place in self.proc.iterdir() if place.name.isdecimal())


def _delegated_spans(path: Path) -> list[range]:
    return [_span(first, count) for first, count in _DELEGATION.findall(_read(path).decode(errors="replace"))]


def _mapped_spans(path: Path) -> list[range]:
    return [_span(first, count) for first, _, count in map(str.split, _read(path).decode().splitlines())]


def _span(first: str, count: str) -> range:
    return range(int(first), int(first) + int(count))


def _has_account(uid: int) -> bool:
    # Asks all sources of accounts of this machine, also those on the network.
    with suppress(KeyError):
        getpwuid(uid)
        return True
    with suppress(KeyError):
        getgrgid(uid)
        return True
    return False


def _has_program(process: Path) -> bool:
    # One that has exited has none, and may wait long for its parent, such as a child of our own server's.
    try:
        (process / "exe").readlink()
    except OSError:
        return False
    return True


def _owner(process: Path) -> int | None:
    try:
        return process.stat().st_uid
    except OSError:
        return None


def _listed_uids() -> set[int]:
    listed = subprocess.run(["/bin/ps", "-A", "-o", "uid="], check=True, capture_output=True).stdout
    return set(map(int, listed.split()))


def _read(path: Path) -> bytes:
    # A process may end meanwhile, and the files are not on every system.
    with suppress(OSError):
        return path.read_bytes()
    return b""
