"""The file of a backup: whole and unchanged, or refused; written wholly, or not at all."""

import hashlib
import os
import resource
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi_mcp.app.archives import DIGEST, new_archive
from agentapi_mcp.app.backup_files import FORMAT, Manifest, TableEntry, new_backup, open_backup
from agentapi_mcp.base.errors import InvalidRequestError, StoreMismatchError

ROWS = b"1\tone\n2\ttwo\n"
MANIFEST = Manifest(
    program="0.1.0",
    made_at="2026-01-01T00:00:00+00:00",
    migrations=("0001_schema",),
    tables=(TableEntry(name="public.profiles", columns=("id", "name"), rows=2),),
    has_config=True,
    master_keys=("a",),
)


def write(path: Path, manifest: Manifest = MANIFEST, rows: bytes = ROWS, *, unnamed: bool = True) -> None:
    """Write a backup."""
    with new_backup(path, unnamed=unnamed) as writer:
        with writer.table("public.profiles") as member:
            member.write(rows)
        writer.finish(manifest, b"[agents]\n", b"sealed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a backup that is whole."""
    path = tmp_path_factory.mktemp("backup") / "whole.backup"
    write(path)
    return path


@contextmanager
def limited(size: int) -> Generator[None]:
    """Let no file become longer, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_what_is_written_is_read(whole: Path) -> None:
    with open_backup(whole) as backup:
        assert backup.manifest == MANIFEST
        assert backup.config == b"[agents]\n"
        assert backup.master_keys == b"sealed"
        assert b"".join([piece async for piece in backup.rows("public.profiles")]) == ROWS


def test_only_its_owner_may_read_it(whole: Path) -> None:
    assert whole.stat().st_mode & 0o777 == 0o600


def test_any_zip_program_opens_it(whole: Path) -> None:
    with zipfile.ZipFile(whole) as archive:
        assert archive.testzip() is None
        assert "agentapi.toml" in archive.namelist()


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_backup_with_any_changed_byte_is_refused(data: st.DataObject, whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    changed = tmp_path / "changed"
    changed.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"changed is (cut off or damaged|no backup)"), open_backup(changed):
        pass


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_backup_that_was_cut_off_anywhere_is_refused(data: st.DataObject, whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(InvalidRequestError, match=r"cut is (cut off or damaged|no backup)"), open_backup(cut):
        pass


def test_a_backup_of_a_newer_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "newer"
    write(path, replace(MANIFEST, format=FORMAT + 1))
    with pytest.raises(StoreMismatchError, match="Upgrade"), open_backup(path):
        pass


ODD: list[dict[str, Any]] = [
    {"format": "x"},
    {"migrations": 3},
    {"tables": [{"name": "public.profiles"}]},
    {"tables": [{"name": "public.profiles", "columns": [1], "rows": 1}]},
    {"tables": [{"name": "public.profiles", "columns": [], "rows": -1}]},
    {"tables": [{"name": "a.b", "columns": [], "rows": 0}]},
    {"tables": [{"name": "public.profiles", "columns": [], "rows": 0}] * 2},
    {"made_at": "yesterday"},
    {"made_at": "2026-01-01T00:00:00"},
    {"has_config": True},
    {"master_keys": ["a"]},
    {"program": "x" * 17_000_000},
]


@pytest.mark.parametrize("change", ODD)
def test_a_backup_that_names_what_it_has_not_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "odd"
    with new_backup(path) as writer:
        with writer.table("public.profiles") as member:
            member.write(ROWS)
        writer.finish(replace(MANIFEST, **change), None, None)
    with pytest.raises(InvalidRequestError, match="damaged"), open_backup(path):
        pass


def foreign(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write a backup that its maker has changed, with a checksum that fits."""
    with new_archive(path) as archive:
        for name, content in {"agentapi-mcp-backup": b"", **members}.items():
            member = zipfile.ZipInfo(name)
            member.compress_type = method
            archive.writestr(member, content)


NESTED = b'{"tables": ' + b"[" * 100_000
FIELDS = b'{"format": 1, "program": "x", "made_at": "2026-01-01T00:00:00Z", "migrations": [], "master_keys": [], '
WITH_CONFIG = FIELDS + b'"has_config": true, "tables": []}'


@pytest.mark.parametrize(
    ("members", "method"),
    [
        ({"backup.json": b""}, zipfile.ZIP_DEFLATED),
        ({"backup.json": b"[]"}, zipfile.ZIP_DEFLATED),
        ({"backup.json": b"\xff"}, zipfile.ZIP_DEFLATED),
        ({"backup.json": NESTED}, zipfile.ZIP_DEFLATED),
        ({"backup.json": WITH_CONFIG, "agentapi.toml": bytes(17_000_000)}, zipfile.ZIP_DEFLATED),  # a bomb
        ({"backup.json": WITH_CONFIG, "agentapi.toml": b""}, zipfile.ZIP_BZIP2),
        ({"backup.json": WITH_CONFIG, "../agentapi.toml": b"x = 1"}, zipfile.ZIP_DEFLATED),
    ],
)
def test_a_backup_that_somebody_has_made_by_hand_is_refused(
    members: dict[str, bytes], method: int, tmp_path: Path
) -> None:
    foreign(tmp_path / "b", members, method)
    with pytest.raises(InvalidRequestError, match="b is cut off or damaged"), open_backup(tmp_path / "b"):
        pass


async def test_rows_that_are_damaged_under_a_checksum_that_fits_are_told(tmp_path: Path) -> None:
    path = tmp_path / "b"
    tables = b'"has_config": false, "tables": [{"name": "a.b", "columns": ["c"], "rows": 1}]}'
    foreign(path, {"tables/a.b": b"one\n", "backup.json": FIELDS + tables}, zipfile.ZIP_STORED)
    content = path.read_bytes()[:-DIGEST].replace(b"one\n", b"two\n")
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())
    with open_backup(path) as backup, pytest.raises(InvalidRequestError, match="damaged"):
        _ = [piece async for piece in backup.rows("a.b")]


@pytest.mark.parametrize("path", ["missing", "."])
def test_what_cannot_be_read_says_so(path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read"), open_backup(tmp_path / path):
        pass


def test_the_one_before_stays_until_the_new_one_is_whole_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b"
    write(path)
    before = path.read_bytes()
    seen = list[bytes]()

    def fail() -> None:
        with new_backup(path, unnamed=False):
            seen.append(path.read_bytes())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [*seen, path.read_bytes(), *tmp_path.iterdir()] == [before, before, path]


@pytest.mark.parametrize("size", [0, 100, 1000, 100_000, 2_001_000])
@pytest.mark.parametrize("unnamed", [True, False])
def test_a_disk_that_is_full_at_any_time_leaves_nothing(size: int, tmp_path: Path, *, unnamed: bool) -> None:
    path = tmp_path / "b"
    with (
        limited(size),
        pytest.raises(InvalidRequestError, match=r"b cannot be written: File too large\. Nothing is left.* Free space"),
    ):
        write(path, rows=os.urandom(2_000_000), unnamed=unnamed)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="there/b cannot be written: No such file or directory"):
        write(tmp_path / "there" / "b")
    with pytest.raises(InvalidRequestError, match=r"File name too long.* shorter name"):
        write(tmp_path / ("b" * 256))
    write(tmp_path / ("b" * 255))
    write(tmp_path / ("b" * 255))
    assert list(tmp_path.iterdir()) == [tmp_path / ("b" * 255)]


def test_only_a_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(InvalidRequestError, match="is a directory, a device or a pipe: name a file"):
            write(tmp_path / name)
    with pytest.raises(InvalidRequestError, match="/dev/null is a directory, a device or a pipe"):
        write(Path("/dev/null"))
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(InvalidRequestError, match=r"link is a symbolic link: name the file that .*/file\."):
        write(tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]
