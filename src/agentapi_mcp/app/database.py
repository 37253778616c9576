"""Opens the database: by its address, or the embedded one in the user's home."""

import asyncio
import shlex
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from urllib.parse import unquote, urlsplit

from agentapi_mcp.app.home import home_of
from agentapi_mcp.base.errors import StoreMismatchError, StoreUnavailableError
from agentapi_mcp.settings import VERSION, Settings, variable_of
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, Server, open_database
from agentapi_mcp.stores.postgres.faults import POOLER
from agentapi_mcp.stores.postgres.schema_state import is_current
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.server.server import EmbeddedServer

APP_LOGIN = "agentapi_app"
_POOL_SIZE = 5
_POOLERS = ".pooler.supabase.com"
# All processes of a home share the 40 connections of its server: what one does not need, another can have at once.
_EMBEDDED_IDLE = timedelta(seconds=5)
_NOT_READY = (
    "The database is not ready for this program. {variable} names it: if it is the one that you mean, run "
    "`{command}` once."
)


def migrate_command(settings: Settings) -> str:
    """Return the command that makes the database ready, also for a login that is not the owner's."""
    owner, login = (
        None if url is None else _login_of(url.get_secret_value())
        for url in (settings.migrate_database_url, settings.database_url)
    )
    granted = f" --grant-to {shlex.quote(login)}" if owner and login and owner != login else ""
    return f"agentapi-mcp migrate{granted}"


def _login_of(url: str) -> str | None:
    """Return the role of a URL, None if it names none."""
    parts = urlsplit(url)
    login = unquote(parts.username or "")
    # Supabase's poolers are told the project behind the role.
    return (login.partition(".")[0] if (parts.hostname or "").endswith(_POOLERS) else login) or None


def _not_ready(settings: Settings, variable: str | None) -> StoreMismatchError:
    return StoreMismatchError(_NOT_READY.format(variable=variable, command=migrate_command(settings)))


def _refuse_standby(database: Database, variable: str | None) -> None:
    # It may lack what its primary has already, and cannot be migrated.
    if database.is_standby:
        raise StoreUnavailableError(
            f"The database is a standby, which cannot be written, and has not the tables of this version yet: let "
            f"{variable} name its primary, or both with a comma between them."
        )


def pool_size(settings: Settings) -> int:
    """Return the greatest number of connections of this process's pool."""
    return settings.pool_size or _POOL_SIZE


def embedded_postgres(settings: Settings, environ: Mapping[str, str]) -> EmbeddedPostgres:
    """Return the configured launcher of the embedded server; nothing is started."""
    return EmbeddedPostgres(
        home=home_of(settings, environ),
        linger=timedelta(seconds=settings.postgres_linger_seconds),
        bindir=settings.postgres_bindir,
    )


async def open_store(stack: AsyncExitStack, settings: Settings, environ: Mapping[str, str]) -> tuple[Database, Server]:
    """Open the database until the stack is closed; only the embedded one is migrated.

    Raises:
        StoreError: the database cannot be used; the message says what to do.
    """
    options = PoolOptions(max_size=pool_size(settings), statement_cache=settings.statement_cache)
    if settings.database_url is not None:
        remote = RemoteServer(settings.database_url.get_secret_value())
        options = replace(options, variable=variable_of("database_url", environ))
        database = await stack.enter_async_context(open_database(remote, options))
        if not await is_current(database, program=VERSION):
            # Not migrated here: other programs may share the database, and its operator decides when.
            _refuse_standby(database, options.variable)
            raise _not_ready(settings, options.variable)
        return database, remote
    embedded = EmbeddedServer(embedded_postgres(settings, environ))
    # Before the pool is opened, so that it closes after the pool.
    stack.push_async_callback(embedded.aclose)
    options = replace(options, idle_lifetime=_EMBEDDED_IDLE, statement_cache=settings.statement_cache is not False)
    database = await stack.enter_async_context(open_database(embedded, options))
    if not await is_current(database, program=VERSION):
        urls = await embedded.urls()
        migrating = import_module("agentapi_mcp.stores.postgres.migrate")  # needed by the first start of a version
        await migrating.migrate(urls.owner_url, program=VERSION, grant_to=APP_LOGIN)
    return database, embedded


@asynccontextmanager
async def open_unchanged_store(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[Database | None]:
    """Open the database for reading alone; None where the next start makes it, or brings it to this version.

    An embedded server is started if it has data.

    Raises:
        StoreError: the database cannot be used, now or by the next start; the message says what to do.
    """
    async with AsyncExitStack() as stack:
        options = PoolOptions(statement_cache=settings.statement_cache, read_only=True)
        if settings.database_url is not None:
            remote = RemoteServer(settings.database_url.get_secret_value())
            # A pooler that the operator rules out is looked for all the same: statements through it fail now and then.
            cache = None if settings.statement_cache else settings.statement_cache
            options = replace(options, variable=variable_of("database_url", environ), statement_cache=cache)
            database = await stack.enter_async_context(open_database(remote, options))
            if settings.statement_cache and not database.owns_connections:
                raise StoreMismatchError(POOLER)
            if not await is_current(database, program=VERSION):
                _refuse_standby(database, options.variable)
                raise _not_ready(settings, options.variable)
            yield database
            return
        options = replace(options, statement_cache=settings.statement_cache is not False)
        postgres = embedded_postgres(settings, environ)
        if not await asyncio.to_thread(postgres.check_start):
            yield None
            return
        embedded = EmbeddedServer(postgres)
        stack.push_async_callback(embedded.aclose)
        database = await stack.enter_async_context(open_database(embedded, options))
        yield database if await is_current(database, program=VERSION) else None


@dataclass(frozen=True, slots=True)
class Owner:
    """The login that owns the tables: its URL, the variable with it, and the login to grant the tables' use to."""

    url: str
    variable: str | None = None
    grant_to: str | None = None


@asynccontextmanager
async def database_owner(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[Owner]:
    """Yield the login that owns the tables; an embedded server runs for as long."""
    for field, url in (
        ("migrate_database_url", settings.migrate_database_url),
        ("database_url", settings.database_url),
    ):
        if url is not None:
            yield Owner(url.get_secret_value(), variable_of(field, environ))
            return
    embedded = EmbeddedServer(embedded_postgres(settings, environ))
    try:
        yield Owner((await embedded.urls()).owner_url, grant_to=APP_LOGIN)
    finally:
        await embedded.aclose()
