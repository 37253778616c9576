"""Which owners of turns have died, known by the locks that they held."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from agentapi_mcp.base.ids import new_id
from agentapi_mcp.stores.postgres.server.owner_locks import HomeOwnerLocks

HOLD = """
import sys
from pathlib import Path
from uuid import UUID
from agentapi_mcp.stores.postgres.server.owner_locks import HomeOwnerLocks
with HomeOwnerLocks(Path(sys.argv[1])).held(UUID(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path, owner: UUID) -> "subprocess.Popen[bytes]":
    """Start a process that holds the lock of an owner until its input ends."""
    process = subprocess.Popen(  # noqa: S603  # a program of this test
        [sys.executable, "-c", HOLD, str(folder), str(owner)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("sign", [signal.SIGKILL, None])
def test_who_is_killed_is_dead_and_of_who_ended_nothing_is_known(sign: signal.Signals | None, tmp_path: Path) -> None:
    owner, locks = new_id(), HomeOwnerLocks(tmp_path)
    with holder(tmp_path, owner) as process:
        assert locks.died(frozenset({owner})) == frozenset()
        if sign is not None:
            process.send_signal(sign)
        process.communicate(timeout=20)
    assert locks.died(frozenset({owner, new_id()})) == ({owner} if sign is not None else frozenset())
    assert locks.died(frozenset({owner})) == ({owner} if sign is not None else frozenset())


def test_a_live_owner_of_this_process_is_not_dead(tmp_path: Path) -> None:
    owner, locks = new_id(), HomeOwnerLocks(tmp_path / "owners")
    with locks.held(owner):
        assert HomeOwnerLocks(tmp_path / "owners").died(frozenset({owner})) == frozenset()
    assert os.listdir(tmp_path / "owners") == []  # noqa: PTH208  # names alone


def test_a_link_in_place_of_a_lock_says_nothing(tmp_path: Path) -> None:
    owner = new_id()
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / f"{owner}.lock").symlink_to(tmp_path / "elsewhere")
    assert HomeOwnerLocks(tmp_path).died(frozenset({owner})) == frozenset()


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young, living, locks = new_id(), new_id(), new_id(), HomeOwnerLocks(tmp_path)
    with locks.held(living):
        for owner in (old, young):
            (tmp_path / f"{owner}.lock").touch()
        for owner in (old, living):
            os.utime(tmp_path / f"{owner}.lock", (0, 0))
        with locks.held(new_id()):
            assert locks.died(frozenset({old, young, living})) == {young}
            assert (tmp_path / f"{living}.lock").exists()
