"""What others ask of the resident servers of a home: what they do, and to end."""

import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentapi_mcp.base.json_values import as_object
from agentapi_mcp.base.locks import pause
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.place import Ending, Place, endings, places

_ANSWERS_WITHIN = 5.0  # one that is starting, too
# What a server needs beside the grace of its turns: for the last answers, and to close what it has open.
_ENDS_WITHIN = 15.0
_LEAVES_WITHIN = 5.0
_GRACE = 1.5


@dataclass(frozen=True)
class ResidentServer:
    """A resident server that runs, with what it says of itself: nothing if it is frozen."""

    place: Place
    pid: int | None
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    ending: Ending | None = None  # it takes nothing any more, and lets its last turns end

    @property
    def answers(self) -> bool:
        """Whether it says anything."""
        return bool(self.facts)

    @property
    def running_turns(self) -> int:
        """How many turns it runs, as far as it says."""
        count = self.facts.get("running_turns")
        return count if isinstance(count, int) else 0


def find_servers(environ: Mapping[str, str]) -> list[ResidentServer]:
    """List the resident servers of the home, of whatever version and settings."""
    environment = Environment({os.fsencode(name): os.fsencode(value) for name, value in environ.items()})
    found = [server for place in places(environment) if (server := _find(place)) is not None]
    # Afterwards: one that begins to end meanwhile is found in one of the two.
    pids = {server.pid for server in found}
    return found + [_told_by(ending) for ending in endings(environment) if ending.pid not in pids]


def differences(servers: Sequence[ResidentServer]) -> list[str]:
    """Name the variables because of which there are several, as far as the kernel shows them (proc(5))."""
    environs = [_counted(server.pid) for server in servers if server.pid is not None]
    names = {name for environ in environs for name in environ}
    return sorted(os.fsdecode(name) for name in names if len({environ.get(name) for environ in environs}) > 1)


def _counted(pid: int) -> Mapping[bytes, bytes]:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    environment = Environment(dict(pair.split(b"=", 1) for pair in pairs if b"=" in pair))
    return environment.counted(environment.home())


def stop(server: ResidentServer, *, force: bool) -> bool:
    """End a server until a client needs one again, and return whether it has ended; by force also one that does not."""
    if server.ending is not None:
        left = _time_to_end(server) - server.ending.age()
        return _has_ended(server.ending, left) or (force and _kill_ending(server.ending))
    server.place.mark_stopped()
    if force and not server.answers:
        return _kill(server)  # it has been given time to answer
    connection = _ask(server.place, b"stop\n")
    if connection is not None:
        with connection:
            connection.settimeout(_time_to_end(server))
            if _read_to_end(connection) is not None:
                return True
    return force and _kill(server)


def _find(place: Place) -> ResidentServer | None:
    end = time.monotonic() + _LEAVES_WITHIN
    while place.is_locked():
        connection = _ask(place, b"status\n")
        if connection is not None:
            with connection:
                line = _read_to_end(connection)
            if line is None:
                return ResidentServer(place, _pid_of(place))  # it takes connections, and says nothing
            facts = _facts(line)
            pid = facts.get("pid")
            if isinstance(pid, int):
                return ResidentServer(place, pid, facts)
        if time.monotonic() > end:  # it has neither begun nor left meanwhile
            return ResidentServer(place, _pid_of(place))
        pause(0.01)
    return None


def _told_by(ending: Ending) -> ResidentServer:
    # Its clients look for the next server.
    return ResidentServer(
        ending.place, ending.pid, {**_facts(ending.told()), "clients": [], "idle_since": None}, ending
    )


def _time_to_end(server: ResidentServer) -> float:
    grace = server.facts.get("grace_seconds")
    return _ENDS_WITHIN + (grace if isinstance(grace, float | int) else _GRACE)


def _has_ended(ending: Ending, within: float) -> bool:
    end = time.monotonic() + within
    while not ending.is_over():
        if time.monotonic() > end:
            return False
        pause(0.01)
    return True


def _kill_ending(ending: Ending) -> bool:
    if not ending.place.is_locked():  # else it has a successor, which runs on
        ending.place.mark_stopped()
    with suppress(ProcessLookupError):
        os.kill(ending.pid, signal.SIGKILL)
    return _has_ended(ending, _LEAVES_WITHIN)


def _ask(place: Place, words: bytes) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ANSWERS_WITHIN)
    try:
        connection.connect(place.socket)
        connection.sendall(words)
    except OSError:
        connection.close()
        return None
    return connection


def _read_to_end(connection: socket.socket) -> bytes | None:
    """Read until the server closes the connection; None if it does not in time."""
    said = b""
    try:
        while chunk := connection.recv(1 << 16):
            said += chunk
    except TimeoutError:
        return None
    except ConnectionError:
        return said
    return said


def _facts(line: bytes) -> Mapping[str, object]:
    try:
        return as_object(json.loads(line))
    except ValueError:
        return {}


def _pid_of(place: Place) -> int | None:
    """Find the process that was started for a place, where the kernel lists processes (proc(5))."""
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdecimal() and _is_of(entry, place):
            return int(entry.name)
    return None


def _is_of(process: Path, place: Place) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return os.fsencode(place.base) in words and process.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _kill(server: ResidentServer) -> bool:
    pid = _pid_of(server.place)
    if pid is None or not server.place.is_locked():
        return not server.place.is_locked()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + _LEAVES_WITHIN
    # Not the lock: a client that waits for an answer has the next one started at once.
    while _is_of(Path(f"/proc/{pid}"), server.place):
        if time.monotonic() > end:
            return False
        pause(0.01)
    return True
