"""The file of a backup: a ZIP archive whose comment, its last bytes, is the SHA-256 of all before.

`backup.json` says what is in it, and `tables/` has the rows of each table in the text format of COPY, which any
Postgres reads. `agentapi.toml` is the configuration file, and `master-keys` the sealed master keys, if there are any.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from agentapi_mcp.app.archives import COMMENT, DIGEST, new_archive
from agentapi_mcp.base.errors import InvalidRequestError, StoreMismatchError
from agentapi_mcp.base.json_values import as_list, as_object, is_list

FORMAT = 1
_MARK = "agentapi-mcp-backup"
_MANIFEST, _TABLES, _CONFIG, _KEYS = "backup.json", "tables/", "agentapi.toml", "master-keys"
_CHUNK = 1 << 20
_MOST_MANIFEST = 16 << 20
_ABOUT = (
    f"A backup of agentapi-mcp, format {FORMAT}: every message in clear text. `agentapi-mcp restore FILE` loads it.\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """A table in a backup."""

    name: str
    columns: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is in a backup; `migrations` are those of the database, and `master_keys` the ids of the sealed ones."""

    program: str
    made_at: str
    migrations: tuple[str, ...]
    tables: tuple[TableEntry, ...]
    has_config: bool = False
    master_keys: tuple[str, ...] = ()
    format: int = FORMAT


class BackupWriter:
    """An archive that is being written."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._write(_MARK, _ABOUT.encode())

    @contextmanager
    def table(self, name: str) -> Generator[IO[bytes]]:
        """Open the member for the rows of a table."""
        with self._open(f"{_TABLES}{name}") as member:
            yield member

    def finish(self, manifest: Manifest, config: bytes | None, keys: bytes | None) -> None:
        """Write all but the tables."""
        if config is not None:
            self._write(_CONFIG, config)
        if keys is not None:
            self._write(_KEYS, keys)
        self._write(_MANIFEST, json.dumps(asdict(manifest), indent=1).encode())

    def _write(self, name: str, content: bytes) -> None:
        with self._open(name) as member:
            member.write(content)

    def _open(self, name: str) -> IO[bytes]:
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        member.external_attr = 0o600 << 16
        return self._archive.open(member, "w", force_zip64=True)


@contextmanager
def new_backup(path: Path) -> Generator[BackupWriter]:
    """Write a backup, wholly or not at all.

    Raises:
        InvalidRequestError: it cannot be written there.
    """
    with new_archive(path) as archive:
        yield BackupWriter(archive)


class Backup:
    """A whole backup, whose checksum fits."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self._archive = archive
        self.manifest = manifest

    def open_table(self, name: str) -> BinaryIO:
        """Open the rows of a table."""
        return cast("BinaryIO", self._archive.open(f"{_TABLES}{name}"))

    def config(self) -> bytes | None:
        """Return the configuration file, if there is one."""
        return self._archive.read(_CONFIG) if self.manifest.has_config else None

    def master_keys(self) -> bytes | None:
        """Return the sealed master keys, if there are any."""
        return self._archive.read(_KEYS) if self.manifest.master_keys else None


@contextmanager
def open_backup(path: Path) -> Generator[Backup]:
    """Open a backup, and compare all of it with its checksum.

    Raises:
        InvalidRequestError: it is no backup, is not whole, or cannot be read.
        StoreMismatchError: a newer program made it.
    """
    with ExitStack() as stack:
        with _readable(path):
            file = stack.enter_context(path.open("rb"))
            _check(file, path)
        with _whole(path):
            archive = stack.enter_context(zipfile.ZipFile(file))
            manifest = _manifest(archive)
            for table in manifest.tables:
                archive.getinfo(f"{_TABLES}{table.name}")
        yield Backup(archive, manifest)


def _manifest(archive: zipfile.ZipFile) -> Manifest:
    with archive.open(_MANIFEST) as member:
        text = json.loads(member.read(_MOST_MANIFEST))
    made_for = as_object(text).get("format")
    if isinstance(made_for, int) and made_for > FORMAT:
        raise StoreMismatchError(
            f"A newer program made this backup (format {made_for}; this one reads {FORMAT}). Upgrade, then restore it."
        )
    return _read(as_object(text))


def _read(fields: Mapping[str, object]) -> Manifest:
    """Read a manifest.

    Raises:
        KeyError: something is missing.
        ValueError: something is of another kind than it must be.
    """
    tables = [as_object(each) for each in as_list(fields["tables"])]
    return Manifest(
        format=_count(fields["format"]),
        program=_text(fields["program"]),
        made_at=_text(fields["made_at"]),
        migrations=_texts(fields["migrations"]),
        tables=tuple(
            TableEntry(name=_text(each["name"]), columns=_texts(each["columns"]), rows=_count(each["rows"]))
            for each in tables
        ),
        has_config=fields["has_config"] is True,
        master_keys=_texts(fields["master_keys"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)  # noqa: TRY004  # a file that is damaged, like any other
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not is_list(value):
        raise ValueError(value)
    return tuple(map(_text, value))


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _check(file: IO[bytes], path: Path) -> None:
    head = file.read(200)
    if not head.startswith(b"PK") or _MARK.encode() not in head:
        raise InvalidRequestError(f"{path} is no backup of agentapi-mcp.")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - DIGEST - len(COMMENT)))
    end = file.read()
    if not end.startswith(COMMENT) or not end.endswith(_checksum(file, size - DIGEST)):
        raise _damaged(path)
    file.seek(0)


def _checksum(file: IO[bytes], length: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0 and (chunk := file.read(min(_CHUNK, length))):
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest().encode()


def _damaged(path: Path) -> InvalidRequestError:
    return InvalidRequestError(f"{path} is cut off or damaged: its checksum does not fit. Nothing was changed.")


@contextmanager
def _whole(path: Path) -> Generator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        KeyError,
        ValueError,
        EOFError,
        NotImplementedError,
    ) as exc:
        raise _damaged(path) from exc


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(f"{path} cannot be read: {exc.strerror or exc}.") from exc
