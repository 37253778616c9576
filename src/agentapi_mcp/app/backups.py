"""Back up, restore, move and reset what the program keeps, on the embedded Postgres and on another one."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO

from agentapi_mcp.app.archives import check_place
from agentapi_mcp.app.backup_files import Backup, BackupWriter, Manifest, TableEntry, new_backup, open_backup
from agentapi_mcp.app.database import Owner, database_owner, embedded_postgres
from agentapi_mcp.app.home import home_of
from agentapi_mcp.app.homes import refuse_users
from agentapi_mcp.app.master_keys import master_key_source
from agentapi_mcp.app.restored_files import ConfigFile, KeysFile, check_new
from agentapi_mcp.auth.master_keys import MasterKey, parse_keys, written_keys
from agentapi_mcp.base.errors import (
    AgentApiError,
    ConfigurationError,
    InvalidRequestError,
    StoreMismatchError,
)
from agentapi_mcp.base.sealing import Sealer
from agentapi_mcp.settings import VERSION, Settings, variable_of
from agentapi_mcp.stores.local.catalogue_files import FILE_NAME
from agentapi_mcp.stores.postgres import copies
from agentapi_mcp.stores.postgres.copies import Copied, Copy, SealedSecret, Snapshot, Table
from agentapi_mcp.stores.postgres.migrate import Plan
from agentapi_mcp.stores.postgres.schema_files import migrations

__all__ = ["Backup", "KeysFile", "SealedSecret", "check_new", "check_place", "open_backup"]

_NOTHING = "There is nothing to {what}: {place} has no data of this program yet."
# By name: encryption is for those who have keys to carry, or secrets to open.
_PASSPHRASES, _SEALING = "agentapi_mcp.auth.passphrases", "agentapi_mcp.auth.sealing"


@dataclass(frozen=True, slots=True)
class Step:
    """How far a copy is: rows of all tables, and the table that is being copied."""

    table: str
    done: int
    total: int


Report = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made, and how many secrets are sealed in it."""

    manifest: Manifest
    size: int
    secrets: tuple[SealedSecret, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the program keeps its data now: in words, and how many rows each table has that is not empty."""

    name: str
    rows: Mapping[str, int] = field(default_factory=dict[str, int])
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """What was loaded; `lost` are the secrets that no master key at hand opens.

    `config` is where the configuration file was written, `kept_config` another one that was there already, and
    `config_fault` why it could not be written.
    """

    manifest: Manifest
    secrets: tuple[SealedSecret, ...]
    lost: tuple[SealedSecret, ...]
    config: Path | None = None
    kept_config: Path | None = None
    config_fault: str | None = None


async def make_backup(
    settings: Settings, environ: Mapping[str, str], path: Path, report: Report, passphrase: str | None = None
) -> Made:
    """Write a backup of one state of the database; with a passphrase, it has the master keys too.

    Raises:
        InvalidRequestError: there is nothing, the passphrase is too short, or the file cannot be written.
        ConfigurationError: there are no master keys to carry.
        StoreError: the database cannot be read.
    """
    keys = None if passphrase is None else await _sealed_keys(settings, passphrase)
    config = await asyncio.to_thread(_read_config, settings, environ)
    async with (
        _existing_owner(settings, environ) as owner,
        copies.open_snapshot(owner.url, owner.variable, VERSION) as snapshot,
    ):
        if snapshot is None:
            raise InvalidRequestError(_NOTHING.format(what="back up", place="the database"))
        with new_backup(path) as writer:
            manifest = replace(
                await _describe(snapshot),
                has_config=config is not None,
                master_keys=() if keys is None else keys[0],
            )
            await _copy_tables(snapshot, manifest, writer, report)
            writer.finish(manifest, config, None if keys is None else keys[1])
        secrets = await snapshot.secrets()
    return Made(manifest, await asyncio.to_thread(os.path.getsize, path), secrets)


async def unseal_keys(backup: Backup, passphrase: str) -> str:
    """Return the master keys of a backup, as AGENTAPI_MASTER_KEY takes them.

    Raises:
        InvalidRequestError: it has none, or the passphrase is another one.
    """
    sealed = backup.master_keys
    if sealed is None:
        raise InvalidRequestError("This backup has no master keys: it was made without --with-keys.")
    text: str = await asyncio.to_thread(import_module(_PASSPHRASES).unseal, sealed, passphrase)
    return text


def check_version(backup: Backup) -> None:
    """Refuse a backup that this program cannot load.

    Raises:
        StoreMismatchError: a newer program made it, or no release.
    """
    shipped = tuple(migration.id for migration in migrations())
    has = backup.manifest.migrations
    if has and has == shipped[: len(has)]:
        return
    if has[: len(shipped)] == shipped:
        raise StoreMismatchError(
            f"A newer program made this backup ({backup.manifest.program}; this is {VERSION}): upgrade, then restore "
            "it."
        )
    raise StoreMismatchError("A development version made this backup: no release has its migrations.")


async def look(settings: Settings, environ: Mapping[str, str]) -> Place:
    """Say what is where the program keeps its data now; an embedded database that is not there is made.

    Raises:
        StoreBusyError: another process uses it.
        StoreError: it cannot be looked at.
    """
    async with owner_alone(settings, environ) as owner:
        rows = await copies.find_contents(owner.url, owner.variable)
    return Place(place_name(settings, environ), rows)


async def restore(
    settings: Settings, environ: Mapping[str, str], backup: Backup, report: Report, keys: KeysFile | None = None
) -> Restored:
    """Load a backup in place of all that is there, or change nothing; its master keys are written to the file `keys`.

    Raises:
        InvalidRequestError: the configuration file or the master keys cannot be written.
        StoreBusyError: another process uses the database.
        StoreError: it cannot be loaded.
    """
    check_version(backup)
    known = await known_keys(settings)  # what cannot be read is told before anything is changed
    given = () if keys is None else parse_keys(keys.keys, "the backup")
    config = ConfigFile(_config_path(settings, environ), backup.config)
    with ExitStack() as stack:
        config.stage(stack)
        if keys is not None:
            keys.stage(stack)
        async with owner_alone(settings, environ) as owner:
            secrets = await load_into(owner, backup.manifest, backup.rows, report)
        config.publish()
        if keys is not None:
            keys.publish()
    lost = _lost(secrets, known, given)
    return Restored(backup.manifest, secrets, lost, config.written, config.kept, config.fault)


async def move(settings: Settings, environ: Mapping[str, str], target: Owner, report: Report) -> Restored:
    """Copy all from where it is now into another, empty database; what is here stays as it is.

    Nobody writes here from the first row that is read to the end of the last transaction there.

    Raises:
        StoreBusyError: another process uses one of the two databases, or came while rows were copied.
        StoreError: one of them does not fit.
    """
    known = await known_keys(settings)
    loaded: tuple[SealedSecret, ...] | AgentApiError
    async with (
        owner_alone(settings, environ) as owner,
        copies.open_snapshot(owner.url, owner.variable, VERSION, is_held=True) as snapshot,
    ):
        if snapshot is None:
            raise InvalidRequestError(_NOTHING.format(what="move", place=place_name(settings, environ)))
        manifest = await _describe(snapshot)
        try:
            async with snapshot.reader() as rows:
                loaded = await load_into(target, manifest, rows, report, snapshot.refuse_users)
        except AgentApiError as exc:  # raised below: here it would be told as one of this database
            loaded = exc
    if isinstance(loaded, AgentApiError):
        raise loaded
    return Restored(manifest, loaded, _lost(loaded, known))


async def look_at_existing(settings: Settings, environ: Mapping[str, str]) -> Place:
    """Look at where the program keeps its data now, and make no database.

    Raises:
        StoreBusyError: another process uses it.
        StoreError: it cannot be looked at.
    """
    if is_embedded(settings) and not await asyncio.to_thread(embedded_postgres(settings, environ).check_start):
        return Place(place_name(settings, environ))
    return await look(settings, environ)


async def empty(settings: Settings, environ: Mapping[str, str]) -> None:
    """Drop all that the program has in a database of the operator's.

    Raises:
        StoreBusyError: another process uses it.
        StoreError: it cannot be dropped.
    """
    async with _owner(settings, environ) as owner:
        await copies.remove(owner.url, owner.variable)


async def look_at(target: Owner) -> Mapping[str, int]:
    """Return how many rows each table of another database has that is not empty; nothing where it is empty."""
    return await copies.find_contents(target.url, target.variable)


async def load_into(
    owner: Owner,
    manifest: Manifest,
    read: Callable[[str], AsyncIterator[bytes]],
    report: Report,
    check: Callable[[], Coroutine[None, None, None]] | None = None,
) -> tuple[SealedSecret, ...]:
    """Load the rows that `read` gives into a database, in place of what the program has there."""
    total, done = sum(table.rows for table in manifest.tables), 0

    def on_rows(table: str, rows: int) -> None:
        nonlocal done
        done += rows
        report(Step(table, done, total))

    copied = tuple(Copied(table.name, table.columns, table.rows) for table in manifest.tables)
    copy = Copy(copied, len(manifest.migrations), read, check)
    return await copies.load(owner.url, owner.variable, copy, Plan(VERSION, owner.grant_to), on_rows)


async def known_keys(settings: Settings) -> tuple[MasterKey, ...]:
    """Return the master keys that are configured."""
    source = master_key_source(settings)
    return () if source is None else await source.read()


def place_name(settings: Settings, environ: Mapping[str, str]) -> str:
    """Say where the program keeps its data, without a password."""
    if is_embedded(settings):
        return f"the embedded database in {home_of(settings, environ)}"
    return f"the database that {variable_of('database_url', environ)} names"


@asynccontextmanager
async def owner_alone(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[Owner]:
    """Yield the login that owns the tables, where no other process of this home uses the embedded database.

    Raises:
        StoreBusyError: one does.
    """
    if is_embedded(settings):
        await asyncio.to_thread(refuse_users, settings, environ)
    async with _owner(settings, environ) as owner:
        yield owner


def is_embedded(settings: Settings) -> bool:
    """Tell whether the program keeps its data in the home."""
    return settings.database_url is None


@asynccontextmanager
async def _existing_owner(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[Owner]:
    if is_embedded(settings) and not await asyncio.to_thread(embedded_postgres(settings, environ).check_start):
        raise InvalidRequestError(_NOTHING.format(what="back up", place=home_of(settings, environ)))
    async with _owner(settings, environ) as owner:
        yield owner


def _owner(settings: Settings, environ: Mapping[str, str]) -> AbstractAsyncContextManager[Owner]:
    # A login for migrations alone is none of the database that the program works with.
    if is_embedded(settings):
        settings = settings.model_copy(update={"migrate_database_url": None})
    return database_owner(settings, environ)


async def _describe(snapshot: Snapshot) -> Manifest:
    return Manifest(
        program=VERSION,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        migrations=snapshot.migrations,
        tables=tuple(
            [
                TableEntry(name=table.name, columns=table.columns, rows=await snapshot.count(table))
                for table in snapshot.tables
            ]
        ),
    )


async def _copy_tables(snapshot: Snapshot, manifest: Manifest, writer: BackupWriter, report: Report) -> None:
    total, before = sum(table.rows for table in manifest.tables), 0
    for table, entry in zip(snapshot.tables, manifest.tables, strict=True):
        with writer.table(table.name) as member:
            await snapshot.copy(table, _writing(member, partial(_said, report, table, before, total)))
        before += entry.rows
        report(Step(table.name, before, total))


def _writing(member: IO[bytes], on_rows: Callable[[int], None]) -> Callable[[bytes], Coroutine[None, None, None]]:
    rows = 0

    async def write(chunk: bytes) -> None:
        nonlocal rows
        member.write(chunk)  # not in a thread, which would write on after a cancellation
        rows += chunk.count(b"\n")  # in the text format, a line end in a value is escaped
        on_rows(rows)

    return write


def _said(report: Report, table: Table, before: int, total: int, rows: int) -> None:
    report(Step(table.name, before + rows, total))


async def _sealed_keys(settings: Settings, passphrase: str) -> tuple[tuple[str, ...], bytes]:
    source = master_key_source(settings)
    if source is None:
        raise ConfigurationError(
            "There are no master keys to carry: AGENTAPI_MASTER_KEY is not set. Leave --with-keys out."
        )
    passphrases = import_module(_PASSPHRASES)
    passphrases.check_passphrase(passphrase)
    keys = await source.read()
    sealed: bytes = await asyncio.to_thread(passphrases.seal, written_keys(keys), passphrase)
    return tuple(key.id for key in keys), sealed


def _lost(secrets: Sequence[SealedSecret], *given: Sequence[MasterKey]) -> tuple[SealedSecret, ...]:
    """Return what no key opens: an id does not tell, since two machines may have different keys of one name."""
    sealers: list[Sealer] = [import_module(_SEALING).AesGcmSealer(keys) for keys in given if keys]
    return tuple(secret for secret in secrets if not any(_opens(sealer, secret) for sealer in sealers))


def _opens(sealer: Sealer, secret: SealedSecret) -> bool:
    try:
        sealer.open_(secret.sealed, secret.place)
    except AgentApiError:
        return False
    return True


def _config_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    return settings.config or home_of(settings, environ) / FILE_NAME


def _read_config(settings: Settings, environ: Mapping[str, str]) -> bytes | None:
    path = _config_path(settings, environ)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InvalidRequestError(f"The configuration file {path} cannot be read: {exc.strerror}.") from exc


def target_of(url: str, grant_to: str | None) -> Owner:
    """Return the owner of the tables of another database."""
    return replace(Owner(url, "--to"), grant_to=grant_to)
