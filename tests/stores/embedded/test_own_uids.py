"""As root, the embedded Postgres is nobody else's: its uid is the home's alone, and it lets in root alone."""

import grp
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server import servers
from agentapi_mcp.stores.postgres.server.accounts import ServerAccount
from agentapi_mcp.stores.postgres.server.own_uids import UnusedUids
from agentapi_mcp.stores.postgres.server.paths import Home
from tests.support.embedded import SharedHome
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root on Linux"),
]

NOBODY = 65534
WWW_DATA = 33


def status_as(uid: int, script: str, *arguments: str | Path) -> int:
    """Run a shell script as a uid and the group of the same number; return its exit status."""
    words: list[str | Path] = ["/bin/sh", "-c", script, "sh", *arguments]
    done = subprocess.run(words, check=False, capture_output=True, user=uid, group=uid, extra_groups=[])  # noqa: S603  # ours
    return done.returncode


def uid_of(home: SharedHome) -> int:
    """Return who runs the server."""
    return Path(f"/proc/{home.server().pid}").stat().st_uid


def stop(home: SharedHome) -> None:
    """End all that runs on a home, so that the next user starts the server."""
    home.kill_everything()
    assert not home.pids()


def read_answer(uid: int, path: Path) -> bytes:
    """Connect to a socket as a uid that asks to be the superuser, and return the first answer; none if it may not."""
    parameters = b"user\0postgres\0database\0postgres\0\0"
    startup = struct.pack("!ii", 8 + len(parameters), 196608) + parameters
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        # The server is told the effective uid that connected.
        os.seteuid(uid)
        try:
            connection.connect(str(path))
        except PermissionError:
            return b""
        finally:
            os.seteuid(0)
        connection.sendall(startup)
        return connection.recv(4096)


async def ask_superuser(home: SharedHome, sql: str) -> object:
    """Run a statement as the superuser of a home's server, as root may."""
    connection = await asyncpg.connect(host=str(Home(home.path).sockets), user="postgres", database="agentapi")
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@pytest.mark.parametrize("uid", [NOBODY, WWW_DATA])
def test_a_process_of_another_uid_gets_at_nothing(home: SharedHome, uid: int) -> None:
    home.user().ask("ensure")
    server, sockets = home.server().pid, Home(home.path).sockets
    for script, place in (
        ('cd "$1"', sockets),
        ('cd "$1"', home.data),
        ('cat "$1"', home.data / "PG_VERSION"),
        ('cat "$1"', Home(home.path).uid_file),
        ('cat "$1"', Path(f"/proc/{server}/environ")),
        ('ls "$1"', Path(f"/proc/{server}/fd")),
        ('kill "$1"', Path(str(server))),
        ('touch "$1"', next((home.path / "bin").glob("*/*/pginstall18/bin/postgres"))),
        ('touch "$1"', home.path / "pg18" / "pg_hba.conf"),
    ):
        assert status_as(uid, script, place), (script, place)
        assert not status_as(0, script.replace("kill", "kill -0"), place), (script, place)
    assert read_answer(uid, Home(home.path).socket) == b""
    assert home.server().pid == server


def test_the_server_refuses_whom_the_socket_would_let_in(home: SharedHome) -> None:
    home.user().ask("ensure")
    path = Home(home.path).socket
    path.parent.chmod(0o711)
    path.chmod(0o777)
    for uid in (NOBODY, WWW_DATA, uid_of(home)):
        assert b"Peer authentication failed" in read_answer(uid, path), uid
    assert read_answer(0, path).startswith(b"R")


async def test_the_rules_let_in_root_alone_and_a_program_of_the_server_is_nobodys(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    rules = "SELECT string_agg(concat_ws(' ', type, address, auth_method, error), ',') FROM pg_hba_file_rules"
    assert await ask_superuser(home, rules) == "local peer"
    names = "SELECT string_agg(concat_ws(' ', sys_name, pg_username, error), ',') FROM pg_ident_file_mappings"
    assert await ask_superuser(home, names) == "root all"
    await ask_superuser(home, "CREATE TABLE public.ran (who text)")
    await ask_superuser(home, "COPY public.ran FROM PROGRAM 'id -u'")
    assert await ask_superuser(home, "SELECT who FROM public.ran") == str(uid_of(home))
    with pytest.raises(AssertionError, match="permission denied to COPY to or from an external program"):
        user.ask("owner", "COPY (SELECT 1) TO PROGRAM 'true'")


def test_while_the_data_is_made_no_process_of_the_lent_account_gets_at_it(home: SharedHome) -> None:
    user = home.user()
    user.tell("ensure")
    (maker, *_) = wait_until(lambda: home.pids("/initdb\0-D"), seconds=30, interval=0.0005)
    os.kill(maker, signal.SIGSTOP)
    try:
        (data,) = (home.path / "pg18").glob("new-*/data")
        assert Path(f"/proc/{maker}").stat().st_uid == NOBODY
        for script, place in (('ls "$1"', data), ('cat "$1"', Path(f"/proc/{maker}/environ"))):
            assert status_as(NOBODY, script, place), place
        assert status_as(NOBODY, 'cd "$1"', Path(f"/proc/{maker}/root")) != 0
        assert status_as(NOBODY, 'exec 3>"$1"', Path(f"/proc/{maker}/mem")) != 0
    finally:
        os.kill(maker, signal.SIGCONT)
    assert "error" not in user.hear()
    assert uid_of(home) != NOBODY


def test_the_next_start_takes_the_same_uid_and_another_home_another(home: SharedHome) -> None:
    home.user().ask("ensure")
    uid = uid_of(home)
    stop(home)
    home.user().ask("ensure")
    assert uid_of(home) == uid
    shutil.copytree(home.path / "bin", home.path.with_name("other") / "bin", symlinks=True)
    other = SharedHome(home.path.with_name("other"))
    try:
        other.user().ask("ensure")
        assert uid_of(other) != uid
    finally:
        other.remove()


@pytest.fixture
def stranger() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return a place for a process of a uid, which is ended."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.communicate()


def test_a_uid_that_somebody_else_has_taken_is_left(home: SharedHome, stranger: list[subprocess.Popen[bytes]]) -> None:
    home.user().ask("owner", "CREATE TABLE kept AS SELECT 7 AS n")
    uid = uid_of(home)
    stop(home)
    stranger.append(subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, user=uid, group=uid, extra_groups=[]))
    assert home.user().ask("owner", "SELECT n FROM kept") == 7
    assert uid_of(home) != uid
    assert {place.stat().st_uid for place in (home.data, *home.data.rglob("*"))} == {uid_of(home)}
    assert Home(home.path).uid_file.read_text() == f"{uid_of(home)}\n"


def test_a_uid_of_the_data_of_another_home_is_not_taken(place: Path) -> None:
    uid = Home(place / "home").account().uid
    other = Home(place / "other").data
    other.mkdir(parents=True)
    os.chown(other, uid, uid)
    assert Home(place / "home").account().uid == uid + 1


def test_data_that_root_has_copied_back_is_taken(home: SharedHome) -> None:
    home.user().ask("owner", "CREATE TABLE kept AS SELECT 7 AS n")
    stop(home)
    uid = home.data.stat().st_uid
    for place in (home.data, *home.data.rglob("*")):
        os.chown(place, 0, 0)
    assert home.user().ask("owner", "SELECT n FROM kept") == 7
    assert uid_of(home) == uid


def make_old(home: SharedHome) -> Home:
    """Make a home as the version before left it: all that Postgres needs belongs to nobody, and there is no uid."""
    home.user().ask("owner", "CREATE TABLE kept AS SELECT 7 AS n")
    stop(home)
    old = Home(home.path)
    for place in (old.uid_file, old.base / "pg_hba.conf", old.base / "pg_ident.conf"):
        place.unlink()
    for top in (old.data, old.sockets, *old.bin.iterdir()):
        for place in (top, *top.rglob("*")):
            os.chown(place, NOBODY, NOBODY, follow_symlinks=False)
    return old


def test_a_home_of_the_version_before_is_carried_over(home: SharedHome) -> None:
    old = make_old(home)
    secret = home.path / "secret"
    secret.touch(mode=0o600)
    (old.data / "base" / "soft").symlink_to(secret)
    (old.data / "base" / "hard").hardlink_to(secret)
    (old.data / "base").chmod(0o777)
    assert home.user().ask("owner", "SELECT n FROM kept") == 7
    uid = uid_of(home)
    assert uid not in {0, NOBODY}
    places = {place for place in (old.data, *old.data.rglob("*"), old.sockets) if place.name != "hard"}
    assert {place.lstat().st_uid for place in places} == {uid}
    assert {place.lstat().st_uid for top in old.bin.iterdir() for place in (top, *top.rglob("*"))} == {0}
    assert secret.stat().st_uid == 0
    assert (old.data / "base").stat().st_mode & 0o777 == 0o700


def test_a_carrying_over_that_was_killed_is_done_again(home: SharedHome) -> None:
    old = make_old(home)
    uid = UnusedUids().find(home.path, ())
    os.chown(old.data, uid, uid)
    assert home.user().ask("owner", "SELECT n FROM kept") == 7
    assert {place.stat().st_uid for place in (old.data, *old.data.rglob("*"))} == {uid_of(home)}


def test_a_server_that_the_version_before_started_is_used_until_it_stops(home: SharedHome) -> None:
    old = make_old(home)
    (bindir,) = old.bin.glob("*/*/pginstall18/bin")
    with servers.stopped(old) as lock:
        assert lock is not None
        offset = servers.spawn(old, bindir, ServerAccount(NOBODY, NOBODY), lock)
    servers.await_up(old, offset)
    server = home.server().pid
    assert home.user().ask("owner", "SELECT n FROM kept") == 7
    assert home.server().pid == server
    assert old.data.stat().st_uid == NOBODY
    stop(home)
    assert home.user().ask("owner", "SELECT n FROM kept") == 7
    assert uid_of(home) == old.data.stat().st_uid != NOBODY


def test_the_sockets_directory_of_the_version_before_in_tmp_is_made_anew(home: SharedHome) -> None:
    home.path = home.path / ("deep" * 25)
    sockets = Home(home.path).sockets
    try:
        make_old(home)
        (sockets / "planted").touch()
        assert home.user().ask("owner", "SELECT n FROM kept") == 7
        assert sockets.stat().st_uid == uid_of(home)
        assert not (sockets / "planted").exists()
    finally:
        home.kill_everything()
        shutil.rmtree(sockets)


def test_a_home_of_an_ordinary_user_has_no_uid_and_no_rules_of_its_own(ordinary_home: SharedHome) -> None:
    ordinary_home.user().ask("ensure")
    assert uid_of(ordinary_home) == NOBODY
    assert not [place.name for place in (ordinary_home.path / "pg18").iterdir() if place.name in {"uid", "pg_hba.conf"}]


def test_a_uid_is_found_that_is_not_taken_delegated_or_outside_the_namespace(tmp_path: Path) -> None:
    delegated, maps = tmp_path / "subuid", tmp_path / "uid_map"
    here = UnusedUids(delegated=(delegated,), maps=(maps,))
    first = here.find(tmp_path, ())
    assert here.find(tmp_path, ()) == first
    assert here.has(first)
    assert here.find(tmp_path, (first,)) == first + 1
    delegated.write_text(f"# comment\nsome:{first}:1\nother:{first + 1}:1\n")
    assert not here.has(first)
    assert here.find(tmp_path, ()) == first + 2
    maps.write_text("0 100000 65536\n")
    small = here.find(tmp_path, ())
    assert 60_706 <= small < 61_184
    assert here.has(small)
    assert not here.has(first + 2)
    maps.write_text("0 1000 1\n")
    with pytest.raises(StoreUnavailableError, match="no uid to spare"):
        here.find(tmp_path, ())


def test_neither_the_uid_of_an_account_nor_the_gid_of_a_group_is_unused(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").touch()  # no processes, so that only the accounts count
    accounts = {entry.pw_uid for entry in pwd.getpwall()}
    groups = {entry.gr_gid for entry in grp.getgrall()} - accounts
    for uid in (NOBODY, max(groups)):
        here = UnusedUids(spans=(range(uid, uid + 1),), proc=tmp_path)
        assert not here.has(uid), uid
        with pytest.raises(StoreUnavailableError, match="no uid to spare"):
            here.find(tmp_path, ())
    first = UnusedUids().find(tmp_path, ())
    assert UnusedUids().has(first)
    assert not UnusedUids(spans=(range(first + 1, first + 2),)).has(first)


@pytest.mark.parametrize("proc", [Path("/proc"), Path("/none")])
def test_a_uid_of_a_process_is_used_with_and_without_proc(
    tmp_path: Path, proc: Path, stranger: list[subprocess.Popen[bytes]]
) -> None:
    here = UnusedUids(proc=proc)
    uid = here.find(tmp_path, ())
    stranger.append(subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, user=uid, group=uid, extra_groups=[]))
    assert not here.has(uid)
    assert here.find(tmp_path, ()) != uid


def test_a_process_that_has_exited_uses_no_uid(tmp_path: Path) -> None:
    here = UnusedUids()
    uid = here.find(tmp_path, ())
    with subprocess.Popen(["/bin/true"], user=uid, group=uid, extra_groups=[]) as exited:
        os.waitid(os.P_PID, exited.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{exited.pid}").stat().st_uid == uid
        assert here.has(uid)


def test_a_gid_of_a_process_is_used(tmp_path: Path, stranger: list[subprocess.Popen[bytes]]) -> None:
    here = UnusedUids()
    uid = here.find(tmp_path, ())
    stranger.append(subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, group=1, extra_groups=[uid]))
    assert here.find(tmp_path, ()) != uid
