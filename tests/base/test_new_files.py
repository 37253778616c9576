"""A file that is there as a whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentapi_mcp.base.new_files import new_file

_LINUX = sys.platform.startswith("linux")
pytestmark = pytest.mark.parametrize(
    "unnamed", [pytest.param(True, marks=pytest.mark.skipif(not _LINUX, reason="needs O_TMPFILE")), False]
)
# Writes half of it, says so and waits.
HALF = """
import sys
from pathlib import Path
from agentapi_mcp.base.new_files import new_file
with new_file(Path(sys.argv[1]), unnamed=sys.argv[2] == "True") as file:
    file.write(b"half")
    print("half", flush=True)
    sys.stdin.read()
"""
_NOBODY = 65534


def write(path: Path, content: bytes, *, unnamed: bool, over: bool = False) -> None:
    """Write a file."""
    with new_file(path, unnamed=unnamed) as file:
        file.write(content)
        file.publish(over=over)


def names(folder: Path) -> list[str]:
    """List what is in a directory."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["b", "b" * 255, os.fsdecode(b"\xff\xfe"), "é" * 127])
def test_it_has_its_name_when_it_is_whole(name: str, tmp_path: Path, *, unnamed: bool) -> None:
    path = tmp_path / name
    with new_file(path, unnamed=unnamed) as file:
        file.write(b"whole")
        assert not path.exists()
        assert len(names(tmp_path)) == (0 if unnamed else 1)
        file.publish()
    assert (names(tmp_path), path.read_bytes(), path.stat().st_mode & 0o777) == ([name], b"whole", 0o600)
    write(path, b"another", unnamed=unnamed, over=True)
    assert (names(tmp_path), path.read_bytes()) == ([name], b"another")


def test_it_takes_the_place_of_another_only_if_that_is_said(tmp_path: Path, *, unnamed: bool) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(path, b"new", unnamed=unnamed)
    assert (names(tmp_path), path.read_bytes()) == (["b"], b"mine")


def test_without_its_name_nothing_is_left(tmp_path: Path, *, unnamed: bool) -> None:
    with new_file(tmp_path / "b", unnamed=unnamed) as file:
        file.write(b"half")
    assert names(tmp_path) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path, *, unnamed: bool) -> None:
    path = tmp_path / "b"
    mine = [tmp_path / name for name in (".b.mine.part", ".b.0123456789abcdef.part.txt", ".c.0123456789abcdef.part")]
    for each in mine:
        each.write_bytes(b"mine")
    command = [sys.executable, "-c", HALF, path, str(unnamed)]
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603  # ours
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        between = names(tmp_path)
        write(path, b"first", unnamed=False)
        assert names(tmp_path) == sorted([*between, "b"])
        process.send_signal(signal.SIGKILL)
    write(path, b"second", unnamed=unnamed, over=True)
    assert (names(tmp_path), path.read_bytes()) == (sorted(["b", *(each.name for each in mine)]), b"second")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody who may not read a directory")
def test_a_directory_that_may_be_written_and_not_read_will_do(tmp_path: Path, *, unnamed: bool) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    os.chown(folder, _NOBODY, _NOBODY)
    folder.chmod(0o300)
    before = Path.cwd()
    os.chdir(folder)  # the directories above are closed to others
    os.seteuid(_NOBODY)
    try:
        write(Path("b"), b"whole", unnamed=unnamed)
        write(Path("b"), b"whole again", unnamed=unnamed, over=True)
    finally:
        os.seteuid(0)
        os.chdir(before)
    assert (names(folder), (folder / "b").read_bytes()) == (["b"], b"whole again")
