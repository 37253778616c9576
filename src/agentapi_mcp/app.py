"""The one place that names concrete classes: opens everything, ties it together, closes it in reverse."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import cast

from agentapi_mcp.backends.registry import create, names
from agentapi_mcp.core.agents import Agents
from agentapi_mcp.core.allowances import Allowances
from agentapi_mcp.core.api_keys import ApiKeys
from agentapi_mcp.core.audit import Audit
from agentapi_mcp.core.catalogue import Catalogue
from agentapi_mcp.core.clients import Clients
from agentapi_mcp.core.clocks import SystemClock
from agentapi_mcp.core.errors import ConfigurationError, StoreMismatchError
from agentapi_mcp.core.gates import AppGate
from agentapi_mcp.core.health import Health, Part
from agentapi_mcp.core.hosts import AppHost
from agentapi_mcp.core.identity import OrgId, Principal, Role, UserId
from agentapi_mcp.core.ids import new_id
from agentapi_mcp.core.key_entries import KeyEntries
from agentapi_mcp.core.members import Memberships
from agentapi_mcp.core.organizations import Organizations
from agentapi_mcp.core.personal_tokens import PersonalTokens
from agentapi_mcp.core.ports import Backend, Clock, Sealer
from agentapi_mcp.core.records.agents import AgentDeclaration, CatalogueFile
from agentapi_mcp.core.records.turns import Signal, SignalKind
from agentapi_mcp.core.runs import RunOptions, Runs
from agentapi_mcp.core.services import Door, Services
from agentapi_mcp.core.sessions import Sessions
from agentapi_mcp.core.sign_ins import SignIns, member
from agentapi_mcp.core.store_ports import CatalogueStore, HealthStore, ProfileStore, SessionCache, TurnEvents
from agentapi_mcp.core.turns import TurnPorts, Turns
from agentapi_mcp.settings import VERSION, Settings
from agentapi_mcp.stores.embedded.connected import EmbeddedServer
from agentapi_mcp.stores.embedded.launcher import EmbeddedPostgres, default_home
from agentapi_mcp.stores.local.catalogue_files import catalogue_paths, load_catalogue
from agentapi_mcp.stores.local.catalogue_watch import CatalogueWatch
from agentapi_mcp.stores.local.events import LocalTurnEvents
from agentapi_mcp.stores.local.session_caches import LocalSessionCache
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.audit import PostgresAudit, prune_audit
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.clients import PostgresClients
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, Server, open_database
from agentapi_mcp.stores.postgres.health import PostgresHealth
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.key_requests import PostgresKeyRequests
from agentapi_mcp.stores.postgres.logins import login_remark
from agentapi_mcp.stores.postgres.mcp_questions import PostgresMcpQuestions
from agentapi_mcp.stores.postgres.mcp_sessions import PostgresMcpSessions
from agentapi_mcp.stores.postgres.members import PostgresMembers
from agentapi_mcp.stores.postgres.migrate import MigrationState, Preview, is_current, migrate, preview, status
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from agentapi_mcp.stores.postgres.personal_tokens import PostgresPersonalTokens
from agentapi_mcp.stores.postgres.profiles import PostgresProfiles
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.signals import PostgresSignals
from agentapi_mcp.stores.postgres.turns import PostgresTurns

_log = logging.getLogger(__name__)
_LISTEN_WITHIN = timedelta(seconds=5)
_POOL_SIZE = 5
_SHUTDOWN_GRACE = timedelta(seconds=1.5)
APP_LOGIN = "agentapi_app"


@dataclass(frozen=True, slots=True)
class App:
    """A running program, seen from an edge."""

    settings: Settings
    gate: AppGate


@asynccontextmanager
async def open_app(
    settings: Settings, environ: Mapping[str, str], *, clock: Clock | None = None
) -> AsyncGenerator[App]:
    """Open the program and return at once: the stores come up in the background, and close when the context ends."""
    time = clock or SystemClock()
    gate = AppGate(lambda: open_services(settings, environ, time), timedelta(seconds=settings.start_timeout_seconds))
    async with asyncio.TaskGroup() as group:
        group.create_task(gate.run())
        try:
            yield App(settings, gate)
        finally:
            gate.close()


@asynccontextmanager
async def open_services(settings: Settings, environ: Mapping[str, str], clock: Clock) -> AsyncGenerator[Services]:
    """Open stores, backends and use cases; close them in reverse, running turns first."""
    async with AsyncExitStack() as stack:
        watch = CatalogueWatch(
            partial(catalogue_paths, settings.config, home_of(settings, environ)),
            lambda paths: load_catalogue(paths, environ, names),
            clock,
        )
        file = watch.read()
        sealer = await _open_sealer(settings)
        database, server = await open_store(stack, settings, environ)
        signals = await _open_signals(stack, server, settings, clock)
        profiles = PostgresProfiles(database)
        principal = await _principal(settings, profiles, file.sign_in.roles)
        audit = await stack.enter_async_context(_audit(database, server, settings, clock, principal).open())
        host = AppHost(clock, environ)
        stack.push_async_callback(host.aclose)
        catalogue = await _open_catalogue(stack, PostgresCatalogue(database), file, host, clock)
        stack.callback(signals.subscribe(partial(_hear_catalogue, catalogue)))
        shared = await _open_shared(stack, settings, PostgresHealth(database), clock)
        parts = (*_parts(database, settings), shared.part, Part("configuration", "files", watch.probe))
        allowances = Allowances(catalogue, PostgresOrganizations(database))
        health = Health(catalogue=catalogue, store=shared.health, clock=clock, parts=parts, allowances=allowances)
        api_keys = ApiKeys(PostgresApiKeys(database), sealer, clock, audit)
        agents = Agents(catalogue, health, api_keys, allowances)
        ports = TurnPorts(
            turns=PostgresTurns(database),
            sessions=PostgresSessions(database),
            cache=shared.cache,
            events=shared.events,
            signals=signals,
            clock=clock,
        )
        door = await _open_door(stack, settings, file, SignIns(PostgresIdentities(database), audit), clock)
        personal_tokens = PersonalTokens(PostgresPersonalTokens(database), clock, file.sign_in, audit)
        runs = Runs(ports.turns, ports.events, signals, clock, _run_options(settings), owner=new_id())
        services = Services(
            principal=principal,
            door=door,
            personal_tokens=personal_tokens,
            turns=Turns(ports, await stack.enter_async_context(runs.open()), agents, health, api_keys, audit),
            sessions=Sessions(ports.sessions, ports.cache, audit),
            agents=agents,
            organizations=Organizations(PostgresOrganizations(database), catalogue, audit),
            memberships=Memberships(PostgresMembers(database), clock, audit),
            clients=Clients(PostgresClients(database), allowances, clock),
            api_keys=api_keys,
            key_entries=KeyEntries(PostgresKeyRequests(database), api_keys, sealer, clock, settings.origin),
            health=health,
            audit=audit,
            profiles=profiles,
            mcp_sessions=PostgresMcpSessions(database),
            mcp_questions=PostgresMcpQuestions(database),
            signals=signals,
            reload=watch.wake,
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(group.create_task(watch.run(partial(_take, catalogue, personal_tokens, door))).cancel)
        host.view.show(services)
        yield services


async def _open_catalogue(
    stack: AsyncExitStack, store: CatalogueStore, file: CatalogueFile, host: AppHost, clock: Clock
) -> Catalogue:
    def build(declaration: AgentDeclaration) -> Backend:
        return create(declaration.backend, declaration.options, host)

    catalogue = Catalogue(store=store, file=file, build=build, clock=clock)
    stack.push_async_callback(catalogue.aclose)
    await catalogue.publish()
    return catalogue


def _hear_catalogue(catalogue: Catalogue, signal: Signal) -> None:
    if signal.kind is SignalKind.CATALOGUE_CHANGED:
        catalogue.expire()


async def open_store(stack: AsyncExitStack, settings: Settings, environ: Mapping[str, str]) -> tuple[Database, Server]:
    """Open the database until the stack is closed; the embedded one is brought to this version, no other is.

    Raises:
        StoreError: it cannot be used; the message says what to do.
    """
    options = PoolOptions(max_size=settings.pool_size or _POOL_SIZE, statement_cache=settings.statement_cache)
    if settings.database_url is not None:
        remote = RemoteServer(settings.database_url.get_secret_value())
        database = await stack.enter_async_context(open_database(remote, options))
        if not await is_current(database, program=VERSION):
            raise StoreMismatchError("The database is not ready for this program; run `agentapi-mcp migrate` once.")
        return database, remote
    embedded = EmbeddedServer(embedded_postgres(settings, environ))
    stack.push_async_callback(embedded.aclose)
    database = await stack.enter_async_context(open_database(embedded, options))
    if not await is_current(database, program=VERSION):
        urls = await embedded.urls()
        await migrate(urls.owner_url, program=VERSION, grant_to=APP_LOGIN)
    return database, embedded


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What replicas share besides the database, or what stands for it in one process."""

    cache: SessionCache
    events: TurnEvents
    health: HealthStore
    part: Part


async def _open_shared(stack: AsyncExitStack, settings: Settings, health: HealthStore, clock: Clock) -> Shared:
    here = LocalTurnEvents()
    if settings.redis_url is None:
        return Shared(
            cache=LocalSessionCache(clock),
            events=here,
            health=health,
            part=Part("cache", "in this process"),
        )
    # By name, so that a laptop without Redis does not pay for the import.
    redis, url = import_module("agentapi_mcp.stores.redis"), settings.redis_url.get_secret_value()
    client = await stack.enter_async_context(redis.open_redis(url, settings.redis_prefix, clock))
    return Shared(
        cache=redis.RedisSessionCache(LocalSessionCache(clock), client),
        events=await stack.enter_async_context(redis.open_turn_events(here, client, url, clock)),
        health=redis.RedisHealth(health, client),
        part=Part("redis", "by URL", client.probe),
    )


async def _take(catalogue: Catalogue, tokens: PersonalTokens, door: Door | None, file: CatalogueFile) -> None:
    """Take a changed file."""
    await catalogue.reload(file)
    tokens.take(file.sign_in)
    if door is not None:
        await door.take(file.sign_in)


async def _open_door(
    stack: AsyncExitStack, settings: Settings, file: CatalogueFile, sign_ins: SignIns, clock: Clock
) -> Door | None:
    if settings.resource_url is None:
        return None
    # By name: a program over stdio has no need of cryptography.
    doors = import_module("agentapi_mcp.auth.doors")
    door = cast("Door", await stack.enter_async_context(doors.open_door(settings.resource_url, sign_ins, clock)))
    await door.take(file.sign_in)
    return door


async def _open_sealer(settings: Settings) -> Sealer | None:
    text, file, command = settings.master_key, settings.master_key_file, settings.master_key_command
    if text is None and file is None and command is None:
        return None
    # By name, as the door: it is for those who have something to seal.
    keys = import_module("agentapi_mcp.auth.master_keys").MasterKeySource(
        text=text and text.get_secret_value(), file=file, command=command and command.get_secret_value()
    )
    return cast("Sealer", await import_module("agentapi_mcp.auth.sealing").open_sealer(keys))


def _audit(database: Database, server: Server, settings: Settings, clock: Clock, operator: Principal) -> Audit:
    """Build the audit log; that of the embedded server is also pruned here, since nobody else comes to do it."""

    async def prune(before: datetime) -> None:
        if isinstance(server, EmbeddedServer):
            await prune_audit((await server.urls()).owner_url, before)

    return Audit(
        PostgresAudit(database),
        clock,
        operator=operator,
        retention=timedelta(days=settings.audit_retention_days),
        prune=prune if isinstance(server, EmbeddedServer) else None,
    )


async def _open_signals(stack: AsyncExitStack, server: Server, settings: Settings, clock: Clock) -> PostgresSignals:
    signals = PostgresSignals(server, clock)
    if not settings.statement_cache:
        _log.warning(
            "no_listen", extra={"reason": "AGENTAPI_STATEMENT_CACHE is off: updates of other processes are polled"}
        )
        return signals
    listening = asyncio.Event()
    group = await stack.enter_async_context(asyncio.TaskGroup())
    stack.callback(group.create_task(signals.run(listening.set)).cancel)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LISTEN_WITHIN.total_seconds()):
            await listening.wait()
    return signals


async def _principal(settings: Settings, profiles: ProfileStore, roles: Mapping[str, Role]) -> Principal:
    if settings.user_id is None:
        local = await profiles.local_principal()
        if settings.org_id is None:
            return local
        user_id = local.user_id
    elif settings.org_id is None:
        raise ConfigurationError("Say AGENTAPI_ORG_ID beside AGENTAPI_USER_ID (or --org beside --user).")
    else:
        user_id = UserId(settings.user_id)
    membership = await profiles.find_membership(user_id, OrgId(settings.org_id))
    if membership is None:
        raise ConfigurationError(
            f"The user {user_id} is no member of the organisation {settings.org_id} in this database; check "
            "AGENTAPI_USER_ID and AGENTAPI_ORG_ID, or --user and --org."
        )
    return member(user_id, membership, roles)


def _parts(database: Database, settings: Settings) -> tuple[Part, ...]:
    where = "embedded" if settings.database_url is None else "by URL"
    return (Part("postgres", where, partial(login_remark, database), needed=True),)


def _run_options(settings: Settings) -> RunOptions:
    grace = settings.shutdown_grace_seconds
    return RunOptions(
        abandon_grace=timedelta(seconds=settings.abandon_grace_seconds),
        shutdown_grace=_SHUTDOWN_GRACE if grace is None else timedelta(seconds=grace),
        max_running=settings.max_running_turns,
    )


def home_of(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return where this user's data and configuration live."""
    return default_home(environ) if settings.home is None else settings.home


def embedded_postgres(settings: Settings, environ: Mapping[str, str]) -> EmbeddedPostgres:
    """Return the launcher of the embedded server as the settings want it; nothing is started."""
    return EmbeddedPostgres(
        home=home_of(settings, environ),
        linger=timedelta(seconds=settings.postgres_linger_seconds),
        bindir=settings.postgres_bindir,
    )


@asynccontextmanager
async def _owner_url(settings: Settings, environ: Mapping[str, str]) -> AsyncGenerator[tuple[str, str | None]]:
    """Give the address of the login that owns the tables, and the login that is to be granted their use."""
    given = settings.migrate_database_url or settings.database_url
    if given is not None:
        yield given.get_secret_value(), None
        return
    embedded = EmbeddedServer(embedded_postgres(settings, environ))
    try:
        yield (await embedded.urls()).owner_url, APP_LOGIN
    finally:
        await embedded.aclose()


async def migrate_database(
    settings: Settings, environ: Mapping[str, str], *, grant_to: str | None = None
) -> tuple[str, ...]:
    """Apply what is missing, let the login `grant_to` work, and return the ids."""
    async with _owner_url(settings, environ) as (url, login):
        return await migrate(url, program=VERSION, grant_to=grant_to or login)


async def preview_migration(settings: Settings, environ: Mapping[str, str], *, grant_to: str | None = None) -> Preview:
    """Return what `migrate_database` would do, and change nothing."""
    async with _owner_url(settings, environ) as (url, login):
        return await preview(url, program=VERSION, grant_to=grant_to or login)


async def prune_audit_log(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Drop the months of the audit log that are older than it may be, and return them."""
    async with _owner_url(settings, environ) as (url, _):
        return await prune_audit(url, datetime.now(UTC) - timedelta(days=settings.audit_retention_days))


async def migration_states(settings: Settings, environ: Mapping[str, str]) -> tuple[MigrationState, ...]:
    """List the migrations with the time each was applied."""
    async with _owner_url(settings, environ) as (url, _):
        return await status(url)
