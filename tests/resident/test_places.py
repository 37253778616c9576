"""Where a resident server is found, and by whom."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.app.home import home_of
from agentapi_mcp.resident import environment
from agentapi_mcp.resident.environment import Environment
from agentapi_mcp.resident.place import NoPlaceError, Place, endings, find_place, places, siblings, sweep
from agentapi_mcp.resident.starting import connect
from agentapi_mcp.settings import Settings

KEY = bytes(32)
Change = Callable[[dict[bytes, bytes]], object]


def named(home: Path, **more: str) -> dict[bytes, bytes]:
    return {b"AGENTAPI_HOME": os.fsencode(home)} | {os.fsencode(n): os.fsencode(v) for n, v in more.items()}


def fingerprint(environ: dict[bytes, bytes], toolsets: bytes = b"") -> str:
    own = Environment(environ)
    return own.fingerprint(own.home(), KEY, toolsets)


@pytest.mark.parametrize(
    "environ",
    [
        {"AGENTAPI_HOME": "/srv/agents"},
        {"AGENTAPI_HOME": "/srv/../srv/agents/"},
        {"agentapi_home": "/srv/agents"},
        {"AGENTAPI_HOME": "", "HOME": "/srv/me"},
        {"HOME": "/srv/me"},
        {"HOME": "/srv/me", "XDG_DATA_HOME": "/srv/data"},
        {"HOME": "/srv/me", "XDG_DATA_HOME": "relative"},
    ],
)
@pytest.mark.parametrize("uid", [0, 1000])
def test_a_bridge_finds_the_home_that_the_server_finds(
    environ: dict[str, str], uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    for name in ("AGENTAPI_HOME", "agentapi_home"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    as_bytes = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    assert Environment(as_bytes).home() == os.path.realpath(os.fsencode(home_of(Settings(), environ)))


@pytest.fixture
def on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment, "_CONTAINER_FILES", ())
    return monkeypatch


@pytest.mark.parametrize("word", ["", "1", "true", "Yes"])
def test_clients_on_linux_share_a_server(word: str, on_a_laptop: pytest.MonkeyPatch, tmp_path: Path) -> None:
    del on_a_laptop
    assert Environment(named(tmp_path, AGENTAPI_RESIDENT=word)).reason_against() == ""


@pytest.mark.parametrize("word", ["0", "false", "No"])
def test_one_that_is_refused_is_not_shared(word: str, on_a_laptop: pytest.MonkeyPatch, tmp_path: Path) -> None:
    del on_a_laptop
    assert Environment(named(tmp_path, AGENTAPI_RESIDENT=word)).reason_against() == "AGENTAPI_RESIDENT refuses it"


@pytest.mark.parametrize("place", ["darwin", "file", "first process", "container", "KUBERNETES_SERVICE_HOST"])
def test_elsewhere_it_has_to_be_asked_for(place: str, on_a_laptop: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more = {place: "podman"} if place.lower() == "container" or place.isupper() else {}
    if place == "darwin":
        on_a_laptop.setattr(sys, "platform", "darwin")
    elif place == "file":
        on_a_laptop.setattr(environment, "_CONTAINER_FILES", (str(tmp_path),))
    elif place == "first process":
        on_a_laptop.setattr(os, "getpid", lambda: 1)
    reason = Environment(named(tmp_path, **more)).reason_against()
    assert reason.endswith(("by AGENTAPI_RESIDENT=1 alone", "unless AGENTAPI_RESIDENT=1 asks for it"))
    assert Environment(named(tmp_path, AGENTAPI_RESIDENT="1", **more)).reason_against() == ""


def test_a_home_that_the_settings_refuse_has_no_place() -> None:
    with pytest.raises(NoPlaceError, match="AGENTAPI_HOME is no absolute path"):
        find_place(Environment({b"AGENTAPI_HOME": b"relative"}), None)


@pytest.mark.parametrize(
    "variable",
    [
        *("AGENTAPI_WAIT_SECONDS", "agentapi_wait_seconds", "OPENROUTER_API_KEY", "PGPASSFILE", "OTEL_SDK_DISABLED"),
        *("HTTPS_PROXY", "https_proxy", "GOOGLE_API_KEY", "PYTHONPATH", "HOME", "SSL_CERT_FILE", "MINE"),
    ],
)
def test_a_variable_that_matters_makes_another_server(variable: str, tmp_path: Path) -> None:
    (tmp_path / "agentapi.toml").write_text('[agents.a]\nkey = "${MINE:-none}"\n')
    environs = [named(tmp_path), named(tmp_path, **{variable: "1"}), named(tmp_path, **{variable: "2"})]
    assert len({fingerprint(environ) for environ in environs}) == 3
    kept = Environment(environs[1]).for_resident(os.fsencode(tmp_path))
    assert kept[variable.encode()] == b"1"


@pytest.mark.parametrize(
    "variable", ["PATH", "TERM", "LANG", "CLAUDECODE", "DATABASE_URL", "PYTHONUNBUFFERED", "TMPDIR", "MINE"]
)
def test_a_variable_of_the_client_makes_no_other_server_and_does_not_reach_it(variable: str, tmp_path: Path) -> None:
    assert fingerprint(named(tmp_path)) == fingerprint(named(tmp_path, **{variable: "theirs"}))
    kept = Environment(named(tmp_path, **{variable: "theirs"})).for_resident(os.fsencode(tmp_path))
    assert b"theirs" not in kept.values()


def test_what_says_whether_there_is_a_server_makes_no_other_one(tmp_path: Path) -> None:
    asked = named(tmp_path, AGENTAPI_RESIDENT="1", AGENTAPI_RESIDENT_LINGER_SECONDS="5")
    assert fingerprint(asked) == fingerprint(named(tmp_path))


@pytest.mark.parametrize("cause", ["file", "command", "key"])
def test_a_server_that_starts_programs_is_one_for_each_path(cause: str, tmp_path: Path) -> None:
    more = {"command": {"AGENTAPI_DROID_COMMAND": "droid"}, "key": {"AGENTAPI_MASTER_KEY_COMMAND": "pass show key"}}
    if cause == "file":
        (tmp_path / "agentapi.toml").write_text("[agents.a]\nbackend = 'droid'\n")
    one, other = [named(tmp_path, PATH=path, **more.get(cause, {})) for path in ("/one", "/other")]
    assert fingerprint(one) != fingerprint(other)


def test_a_command_that_prints_the_master_key_has_the_environment_of_who_began(tmp_path: Path) -> None:
    environ = named(tmp_path, AGENTAPI_MASTER_KEY_COMMAND="pass show key", GNUPGHOME="/keys")
    assert Environment(environ).for_resident(os.fsencode(tmp_path))[b"GNUPGHOME"] == b"/keys"


def test_certificates_count_by_the_file_that_they_are(tmp_path: Path) -> None:
    (tmp_path / "bundle.pem").touch()
    (tmp_path / "link.pem").symlink_to("bundle.pem")
    link, file = [named(tmp_path, SSL_CERT_FILE=str(tmp_path / name)) for name in ("link.pem", "bundle.pem")]
    assert fingerprint(link) == fingerprint(file)


RELATIVE = ("AGENTAPI_CONFIG", "AGENTAPI_MASTER_KEY_FILE", "agentapi_config", "PGPASSFILE", "SSL_CERT_FILE")


@pytest.mark.parametrize("variable", RELATIVE)
def test_a_relative_path_starts_at_the_directory_of_the_client(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints: set[str] = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"${{OF_{name}}}")
        monkeypatch.chdir(tmp_path / name)
        environ = named(tmp_path, **{variable: "file", f"OF_{name}": "x"})
        prints.add(fingerprint(environ))
        kept = Environment(environ).for_resident(os.fsencode(tmp_path))
        assert kept[variable.encode()] == os.fsencode(tmp_path / name / "file")
        assert (f"OF_{name}".encode() in kept) == (variable.upper() == "AGENTAPI_CONFIG")
    assert len(prints) == 2


@pytest.mark.parametrize("value", ["~/file", "/srv/file", "system", ""])
def test_what_is_no_relative_path_stays_as_it_is(value: str) -> None:
    environ = {b"PGSSLROOTCERT": os.fsencode(value), b"AGENTAPI_CONFIG": b"~/x", b"AGENTAPI_WAIT_SECONDS": b"5"}
    assert Environment(environ).environ == environ


def test_every_setting_that_is_a_path_is_known_to_the_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {name for name, found in Settings.model_fields.items() if "Path" in str(found.annotation)}
    # The home must be absolute, and only `serve` has certificates.
    for name in paths - {"home", "tls_cert", "tls_key"}:
        variable = b"AGENTAPI_" + name.upper().encode()
        assert Environment({variable: b"x"}).environ == {variable: os.fsencode(tmp_path / "x")}


def test_other_toolsets_make_another_server(tmp_path: Path) -> None:
    assert fingerprint(named(tmp_path)) != fingerprint(named(tmp_path), b"core,admin")


def test_the_fingerprint_depends_on_a_key_of_the_home(tmp_path: Path) -> None:
    one, other = [find_place(Environment(named(tmp_path / name)), None) for name in ("one", "other")]
    assert one.fingerprint != other.fingerprint
    assert find_place(Environment(named(tmp_path / "one")), None).fingerprint == one.fingerprint
    assert (tmp_path / "one" / "run" / "key").stat().st_mode & 0o777 == 0o600


def test_the_directory_is_private_and_short_enough_for_a_socket(tmp_path: Path) -> None:
    near = find_place(Environment(named(tmp_path / "h")), None)
    assert near.run == str(tmp_path / "h" / "run")
    far_home = tmp_path / ("far" * 30)
    far = find_place(Environment(named(far_home)), None)
    assert far.run.startswith(f"{Path(tempfile.gettempdir()).resolve()}/agentapi-run-")
    assert len(os.fsencode(far.socket)) <= 103
    for place in (near, far):
        assert Path(place.run).stat().st_mode & 0o777 == 0o700
    for each in Path(far.run).iterdir():
        each.unlink()
    Path(far.run).rmdir()


def make_open(run: Path) -> None:
    run.mkdir()
    run.chmod(0o755)


def make_link(run: Path) -> None:
    (run.parent / "elsewhere").mkdir(mode=0o700)
    run.symlink_to("elsewhere")


def make_file(run: Path) -> None:
    run.touch()


@pytest.mark.parametrize("make", [make_open, make_link, make_file])
def test_a_directory_that_is_not_ours_alone_is_not_used(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(NoPlaceError, match="is not a private directory of this user"):
        find_place(Environment(named(tmp_path)), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own another's home")
def test_the_home_of_another_account_is_not_used(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(NoPlaceError, match="belongs to another account"):
        find_place(Environment(named(tmp_path)), None)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_made_is_told_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoPlaceError, match=r"file.* cannot be used \(Not a directory\)"):
        find_place(Environment(named(tmp_path / "file" / "home")), None)


def test_a_key_that_is_none_is_told(tmp_path: Path) -> None:
    place = find_place(Environment(named(tmp_path)), None)
    (Path(place.run) / "key").write_bytes(b"short")
    with pytest.raises(NoPlaceError, match="key is no key: remove it"):
        find_place(Environment(named(tmp_path)), None)


def test_a_key_that_is_a_pipe_is_told(tmp_path: Path) -> None:
    place = find_place(Environment(named(tmp_path)), None)
    (Path(place.run) / "key").unlink()
    os.mkfifo(Path(place.run) / "key")
    with pytest.raises(NoPlaceError, match="key is no key: remove it"):
        find_place(Environment(named(tmp_path)), None)


FULL = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    "from agentapi_mcp.resident.environment import Environment; from agentapi_mcp.resident.place import *; "
)


def test_a_full_disk_leaves_nothing_but_what_tells_of_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (sys.executable, "-c", FULL + "find_place(Environment(os.environb), None)")
    monkeypatch.setenv("AGENTAPI_HOME", str(tmp_path))
    ran = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    assert "NoPlaceError" in ran.stderr
    assert list((tmp_path / "run").iterdir()) == []
    here = Environment(named(tmp_path))
    place = find_place(here, None)
    words = (sys.executable, "-c", FULL + "Place(*sys.argv[1:]).note_ending(b'x'); print(flush=True); input()")
    words = (*words, place.run, place.fingerprint)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603  # of this test
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert [(ending.pid, ending.told()) for ending in endings(here)] == [(process.pid, b"")]
        process.kill()
    assert endings(here) == []
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"key"}


def test_where_too_many_wait_for_a_server_nobody_waits_without_a_limit(tmp_path: Path) -> None:
    place = find_place(Environment(named(tmp_path)), None)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place.socket)
        listener.listen(0)
        waiting = connect(place)
        assert waiting is not None
        assert connect(place) is None
        listener.accept()[0].close()
        waiting.close()
        after = connect(place)
        assert after is not None
        assert after.getblocking()
        after.close()


def test_a_lock_is_taken_once_and_free_after_its_process(tmp_path: Path) -> None:
    place = find_place(Environment(named(tmp_path)), None)
    program = (
        "import sys; from agentapi_mcp.resident.place import Place; print(Place(*sys.argv[1:]).try_lock() is None)"
    )

    def asked_elsewhere() -> str:
        words = [sys.executable, "-c", program, place.run, place.fingerprint]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603  # ours

    fd = place.try_lock()
    assert fd is not None
    assert asked_elsewhere() == "True"
    os.close(fd)
    assert asked_elsewhere() == "False"


def test_a_lock_whose_file_was_removed_is_not_the_lock(tmp_path: Path) -> None:
    place = find_place(Environment(named(tmp_path)), None)
    fd = place.try_lock()
    assert fd is not None
    Path(f"{place.base}.lock").unlink()
    other = place.try_lock()
    assert other is not None
    assert os.fstat(other).st_ino == Path(f"{place.base}.lock").stat().st_ino
    os.close(fd)
    os.close(other)


def test_what_has_ended_is_swept_away_and_what_runs_is_left(tmp_path: Path) -> None:
    here = Environment(named(tmp_path))
    ours = find_place(here, None)
    running, ended, stopped = [Place(ours.run, digit * 16) for digit in "abc"]
    locks = [ours.try_lock(), running.try_lock()]
    for place in (ended, stopped):
        assert not place.is_locked()
        Path(place.log).touch()
    stopped.mark_stopped()
    assert [each.fingerprint for each in siblings(ours)] == ["a" * 16]
    sweep(ours)
    assert [each.fingerprint[0] for each in places(here) if each.fingerprint != ours.fingerprint] == ["a", "c"]
    assert not Path(ended.log).exists()
    for lock in locks:
        assert lock is not None
        os.close(lock)


def test_a_server_that_ends_is_listed_until_its_process_has_ended(tmp_path: Path) -> None:
    here = Environment(named(tmp_path))
    place = find_place(here, None)
    program = (
        "import sys; from agentapi_mcp.resident.place import Place; Place(*sys.argv[1:]).note_ending(b'facts'); "
        "print(flush=True); input()"
    )
    words = (sys.executable, "-c", program, place.run, place.fingerprint)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603  # of this test
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        sweep(place)
        (ending,) = endings(here)
        assert (ending.place.base, ending.pid, ending.told()) == (place.base, process.pid, b"facts")
        assert not place.is_locked()
        process.kill()
    sweep(place)
    assert not Path(ending.path).exists()
    assert (endings(here), ending.told(), ending.is_over()) == ([], b"", True)


def test_the_last_words_are_those_since_the_start_without_what_drives_a_terminal(tmp_path: Path) -> None:
    place = find_place(Environment(named(tmp_path)), None)
    Path(place.log).write_text("of another\n")
    before = Path(place.log).stat().st_size
    assert "does not say why" in place.last_words(before)
    with Path(place.log).open("a") as log:
        log.write("Traceback\nagentapi-mcp: A setting\x1b[31m is wrong.\n\n")
    assert place.last_words(before) == "A setting[31m is wrong."
    with Path(place.log).open("a") as log:
        log.write("x" * 100_000 + "\nthe end\n")
    assert place.last_line(before) == "the end"
