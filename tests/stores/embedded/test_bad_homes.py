"""A home that cannot be used gives an error that says what to do, and nothing is left half-written."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentapi_mcp.stores.postgres.server.errors import startup_error
from agentapi_mcp.stores.postgres.server.paths import Home
from tests.support.embedded import SOURCE, SharedHome, kill

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: it reads /proc"),
]


def refusal(home: SharedHome, error: str = "StoreUnavailableError") -> str:
    """Return what a user of the home is told."""
    answer: dict[str, Any] = home.user().ask("ensure")
    assert answer.get("error") == error, answer
    assert "DATABASE_URL" in answer["message"]
    return answer["message"]


def start_once(home: SharedHome) -> None:
    """Make a whole home and stop its server."""
    home.linger = 0.05
    user = home.user()
    user.ask("ensure")
    user.leave()
    home.wait_until_gone()


def test_data_of_another_version_is_left_alone(home: SharedHome) -> None:
    start_once(home)
    (home.data / "PG_VERSION").write_text("16\n")
    before = home.listing()
    message = refusal(home, "StoreMismatchError")
    assert "Postgres 16" in message
    assert home.listing() == before


def test_data_that_is_none_is_left_alone(home: SharedHome) -> None:
    start_once(home)
    (home.data / "PG_VERSION").unlink()
    before = home.listing()
    assert "an unknown version" in refusal(home, "StoreMismatchError")
    assert home.listing() == before


def test_damaged_data_is_reported(home: SharedHome) -> None:
    start_once(home)
    (home.data / "global" / "pg_control").unlink()
    assert str(home.path) in refusal(home)
    assert not home.pids()


@pytest.mark.parametrize(
    "said",
    [
        "FATAL:  could not create shared memory segment: No space left on device",
        'ERROR:  could not resize shared memory segment "/PostgreSQL.1" to 1048576 bytes: No space left on device',
    ],
)
def test_shared_memory_that_is_used_up_is_not_taken_for_a_full_disk(said: str, home: SharedHome) -> None:
    message = str(startup_error(home.path, said))
    assert "shared memory" in message
    assert "DATABASE_URL" in message
    assert "MB" not in message


def test_read_only_home(ordinary_home: SharedHome) -> None:
    ordinary_home.path.chmod(0o500)
    assert "written" in refusal(ordinary_home)
    assert not ordinary_home.listing()


def test_read_only_data(ordinary_home: SharedHome) -> None:
    start_once(ordinary_home)
    ordinary_home.data.chmod(0o500)
    before = ordinary_home.listing()
    assert "written" in refusal(ordinary_home)
    assert ordinary_home.listing() == before
    ordinary_home.data.chmod(0o700)
    assert ordinary_home.user().ask("app", "SELECT 1") == 1


def test_ordinary_user_starts_and_stops_a_server(ordinary_home: SharedHome) -> None:
    ordinary_home.linger = 0.2
    user = ordinary_home.user()
    assert user.ask("app", "SELECT 1") == 1
    assert {place.stat().st_uid for place in ordinary_home.path.rglob("*")} == {ordinary_home.path.stat().st_uid}
    user.leave()
    ordinary_home.wait_until_gone()


def test_home_that_is_a_file(home: SharedHome) -> None:
    home.path.write_text("")
    assert "AGENTAPI_HOME" in refusal(home)


def test_binaries_that_are_missing(home: SharedHome) -> None:
    home.bindir = str(home.path.parent)
    assert "AGENTAPI_POSTGRES_BINDIR" in refusal(home)
    assert not home.data.exists()


def test_binaries_of_another_version(home: SharedHome, place: Path) -> None:
    postgres = place / "postgres"
    postgres.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 15.18'\n")
    postgres.chmod(0o755)
    home.bindir = str(place)
    assert "15.18" in refusal(home)


def test_binaries_that_were_brought_run_where_they_are(home: SharedHome) -> None:
    start_once(home)
    (copied,) = (home.path / "bin").glob("*/*/pginstall18/bin")
    other = SharedHome(home.path.with_name("other"), bindir=str(copied))
    try:
        assert other.user().ask("app", "SELECT 1") == 1
        assert not (other.path / "bin").exists()
    finally:
        other.remove()


def test_other_folders_beside_the_binaries_stay(home: SharedHome) -> None:
    mine, unfinished = home.path / "bin" / "mine", home.path / "bin" / f"new-{'0' * 32}"
    for folder in (mine, unfinished):
        folder.mkdir(parents=True)
        (folder / "file").write_text("")
    home.path.chmod(0o711)
    start_once(home)
    assert ((mine / "file").exists(), unfinished.exists()) == (True, False)


def test_python_without_binaries_says_which_to_take(home: SharedHome) -> None:
    program = f"""
import pathlib
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
try:
    EmbeddedPostgres(pathlib.Path({str(home.path)!r})).ensure()
except StoreUnavailableError as exc:
    print(exc)
"""
    done = subprocess.run(  # noqa: S603  # ours
        [sys.executable, "-S", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE)},
    )
    assert "3.11 to 3.14" in done.stdout
    assert "musl" in done.stdout


@pytest.fixture
def small_disk(home: SharedHome, request: pytest.FixtureRequest) -> Iterator[SharedHome]:
    """Return a home on a disk of its own, whose size is the fixture's parameter."""
    home.path.mkdir()
    words = ["/bin/mount", "-t", "tmpfs", "-o", f"size={request.param},mode=711", "tmpfs", str(home.path)]
    if os.geteuid() != 0 or subprocess.run(words, check=False, capture_output=True).returncode:  # noqa: S603  # ours
        pytest.skip("needs root and the right to mount: it fills a disk of its own")
    yield home
    home.kill_everything()
    subprocess.run(["/bin/umount", str(home.path)], check=True)  # noqa: S603  # ours


@pytest.mark.parametrize("small_disk", ["20m"], indirect=True)
def test_first_start_on_a_disk_that_is_too_small(small_disk: SharedHome) -> None:
    assert "space" in refusal(small_disk)
    assert not any(place.is_file() for place in small_disk.path.rglob("*") if place.stat().st_size)


@pytest.mark.parametrize("small_disk", ["200m"], indirect=True)
def test_start_on_a_disk_that_has_filled_up(small_disk: SharedHome) -> None:
    user = small_disk.user()
    user.ask("owner", "CREATE TABLE kept AS SELECT 7 AS n")
    filler = small_disk.path / "filler"
    fill(filler)
    kill(small_disk.server().pid)
    answer = user.ask("ensure")  # whether it can start without a free byte depends on the log segments it has kept
    assert "error" not in answer or "space" in answer["message"]
    filler.unlink()
    assert user.ask("owner", "SELECT n FROM kept") == 7


@pytest.mark.parametrize("small_disk", ["200m"], indirect=True)
def test_disk_that_fills_up_while_data_is_made(small_disk: SharedHome) -> None:
    start_once(small_disk)
    home = Home(small_disk.path)
    home.data.rename(home.base / "new-unwanted")
    # What an unfinished start left counts as free only once it is gone, so this disk is full in the middle.
    fill(small_disk.path / "filler", leave=10 << 20)
    assert "space" in refusal(small_disk)
    assert not list(home.base.glob("new-*"))
    assert not home.data.exists()


def fill(path: Path, leave: int = 0) -> None:
    """Take all space of a disk, or all but some bytes."""
    space = os.statvfs(path.parent)
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - leave)
