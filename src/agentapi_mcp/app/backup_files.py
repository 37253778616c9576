"""The file of a backup: a ZIP archive whose comment, its last bytes, is the SHA-256 of all before.

`backup.json` says what is in it, and `tables/` has the rows of each table in the text format of COPY, which any
Postgres reads. `agentapi.toml` is the configuration file, and `master-keys` the sealed master keys, if there are any.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from agentapi_mcp.app.archives import COMMENT, DIGEST, new_archive
from agentapi_mcp.base.errors import InvalidRequestError, StoreMismatchError
from agentapi_mcp.base.json_values import as_list, as_object, is_list

FORMAT = 1
_MARK = "agentapi-mcp-backup"
_MANIFEST, _TABLES, _CONFIG, _KEYS = "backup.json", "tables/", "agentapi.toml", "master-keys"
_CHUNK = 1 << 20
_PIECE = 256 << 10
_MOST = 16 << 20  # bytes of what is read as a whole
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_IS_ENCRYPTED = 1
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
def new_backup(path: Path, *, unnamed: bool = True) -> Generator[BackupWriter]:
    """Write a backup, wholly or not at all.

    Raises:
        InvalidRequestError: it cannot be written there.
    """
    with new_archive(path, unnamed=unnamed) as archive:
        yield BackupWriter(archive)


class Backup:
    """A whole backup, whose checksum fits."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self.manifest = _manifest(_read(archive, _MANIFEST))
        for table in self.manifest.tables:
            _find(archive, f"{_TABLES}{table.name}")
        self.config = _read(archive, _CONFIG) if self.manifest.has_config else None
        self.master_keys = _read(archive, _KEYS) if self.manifest.master_keys else None

    async def rows(self, name: str) -> AsyncGenerator[bytes]:
        """Read the rows of a table, in pieces.

        Raises:
            InvalidRequestError: they are damaged, though the checksum fits.
        """
        with _whole(self._path), self._archive.open(_find(self._archive, f"{_TABLES}{name}")) as member:
            while piece := member.read(_PIECE):
                yield piece


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
            backup = Backup(stack.enter_context(zipfile.ZipFile(file)), path)
        yield backup


def _find(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Find a member as this program writes them.

    Raises:
        KeyError: there is none.
        ValueError: it is another kind of member.
    """
    found = archive.getinfo(name)
    if found.compress_type not in _METHODS or found.flag_bits & _IS_ENCRYPTED:
        raise ValueError(name)
    return found


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(_find(archive, name)) as member:
        content = member.read(_MOST + 1)
    if len(content) > _MOST:  # whatever size it names
        raise ValueError(name)
    return content


def _manifest(content: bytes) -> Manifest:
    text: object = json.loads(content)
    made_for = as_object(text).get("format")
    if isinstance(made_for, int) and made_for > FORMAT:
        raise StoreMismatchError(
            f"A newer program made this backup (format {made_for}; this one reads {FORMAT}). Upgrade, then restore it."
        )
    return _of_fields(as_object(text))


def _of_fields(fields: Mapping[str, object]) -> Manifest:
    """Return a manifest.

    Raises:
        KeyError: something is missing.
        ValueError: something is of another kind than it must be.
    """
    tables = [as_object(each) for each in as_list(fields["tables"])]
    names = [_text(each["name"]) for each in tables]
    if len(set(names)) < len(names):
        raise ValueError(names)
    return Manifest(
        format=_count(fields["format"]),
        program=_text(fields["program"]),
        made_at=_moment(fields["made_at"]),
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


def _moment(value: object) -> str:
    text = _text(value)
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(text)
    return text


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
        OverflowError,
        RecursionError,
    ) as exc:
        raise _damaged(path) from exc


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise InvalidRequestError(f"{path} cannot be read: {exc.strerror or exc}.") from exc
