"""Builds the services of the core on their stores, one function for each subject."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from agentapi_mcp.app.database import open_store, pool_size
from agentapi_mcp.app.home import home_of
from agentapi_mcp.app.master_keys import master_key_source
from agentapi_mcp.backends.guide.ports import GuideHost
from agentapi_mcp.backends.registry import create, names
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import ConfigurationError, PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId
from agentapi_mcp.base.sealing import Sealer
from agentapi_mcp.core.access.personal_tokens import PersonalTokens
from agentapi_mcp.core.access.ports import Authenticator, ProfileStore
from agentapi_mcp.core.access.principal_factory import member
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.accounts.accounts import Accounts
from agentapi_mcp.core.accounts.models import AccountProvider
from agentapi_mcp.core.accounts.page_visits import OVERVIEW, AccountPageVisits
from agentapi_mcp.core.accounts.ports import AccountCache, AccountFlow
from agentapi_mcp.core.accounts.tokens import TokenPorts
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.partitions import AuditPartitions
from agentapi_mcp.core.audit.ports import AuditStore
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.core.catalogue.agents import Agents
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.health import Health, Part
from agentapi_mcp.core.catalogue.means import Wallet
from agentapi_mcp.core.catalogue.models import AgentDeclaration, CatalogueFile
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.catalogue.ports import HealthStore
from agentapi_mcp.core.clients.elicitations import Elicitations
from agentapi_mcp.core.clients.ports import ClientStore
from agentapi_mcp.core.clients.transport_sessions import TransportSessions
from agentapi_mcp.core.conversations.change_feed import ChangeFeed
from agentapi_mcp.core.conversations.ports import SessionCache, TurnEvents, TurnMetrics, TurnPorts
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.turn_acceptance import TurnAcceptance
from agentapi_mcp.core.conversations.turn_runner import TurnRunner
from agentapi_mcp.core.conversations.turn_work import TurnWork
from agentapi_mcp.core.conversations.turns import Turns
from agentapi_mcp.core.identity.leases import Leases
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.identity.shares import Shares
from agentapi_mcp.core.keys.api_keys import ApiKeys
from agentapi_mcp.core.keys.key_requests import KeyRequests, PageRequests
from agentapi_mcp.core.keys.models import PagePurpose
from agentapi_mcp.core.keys.page_visits import KeyPageVisits
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.core.usage.usage import Usage
from agentapi_mcp.settings import Settings, variable_of
from agentapi_mcp.stores.local.accounts import NoAccountCache
from agentapi_mcp.stores.local.catalogue_files import catalogue_paths, load_catalogue
from agentapi_mcp.stores.local.catalogue_watch import CatalogueWatch
from agentapi_mcp.stores.local.events import LocalTurnEvents
from agentapi_mcp.stores.local.session_caches import LocalSessionCache
from agentapi_mcp.stores.local.turn_metrics import NoTurnMetrics
from agentapi_mcp.stores.postgres.accounts import PostgresAccounts
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.audit import PostgresAudit, prune_audit
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.clients import PostgresClients
from agentapi_mcp.stores.postgres.database import Database, RemoteServer, Server
from agentapi_mcp.stores.postgres.elicitations import PostgresElicitations
from agentapi_mcp.stores.postgres.health import PostgresHealth
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.key_requests import PostgresKeyRequests
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.mcp_sessions import PostgresMcpSessions
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from agentapi_mcp.stores.postgres.personal_tokens import PostgresPersonalTokens
from agentapi_mcp.stores.postgres.server.owner_locks import HomeOwnerLocks
from agentapi_mcp.stores.postgres.server.server import EmbeddedServer
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.signals import PostgresSignals
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from agentapi_mcp.stores.postgres.usage import PostgresUsage

# Raises ConfigurationError for a configuration file that this program must not apply.
FileCheck = Callable[[CatalogueFile], None]

_log = logging.getLogger(__name__)
_LISTEN_WITHIN = timedelta(seconds=5)
_LATELY = timedelta(seconds=2)
_SHUTDOWN_GRACE = timedelta(seconds=1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What every service is built on; the stack closes all that was opened, in reverse order."""

    stack: AsyncExitStack
    settings: Settings
    clock: Clock
    database: Database
    signals: PostgresSignals
    profiles: ProfileStore
    principal: Principal
    audit: AuditLog
    owner_locks: HomeOwnerLocks | None
    audit_partitions: AuditPartitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What replicas share besides the database, or its replacement within one process."""

    cache: SessionCache
    events: TurnEvents
    metrics: TurnMetrics
    health: HealthStore
    accounts: AccountCache
    clients: ClientStore
    part: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentServices:
    """The services on agents: the catalogue, its policy, health, usage, and what pays for turns."""

    agents: Agents
    policy: CataloguePolicy
    health: Health
    usage: Usage
    wallet: Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The means of authentication: tokens of issuers, personal tokens, and the login of the pages."""

    authenticator: Authenticator | None
    personal_tokens: PersonalTokens
    key_page_visits: KeyPageVisits
    account_page_visits: AccountPageVisits


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """The services for clients' transport sessions, and for signals between processes."""

    sessions: TransportSessions
    elicitations: Elicitations
    change_feed: ChangeFeed


def catalogue_watch(
    settings: Settings,
    environ: Mapping[str, str],
    clock: Clock,
    check: Callable[[CatalogueFile], None] = lambda _: None,
) -> CatalogueWatch:
    """Return the watch over the configuration files; it reads none yet."""

    def load(paths: Sequence[Path]) -> CatalogueFile:
        file = load_catalogue(paths, environ, names)
        check(file)
        return file

    return CatalogueWatch(partial(catalogue_paths, settings.config, home_of(settings, environ)), load, clock)


async def open_sealer(settings: Settings) -> Sealer | None:
    """Read the master keys; None if none is configured."""
    keys = master_key_source(settings)
    if keys is None:
        return None
    # By name, as the authenticator: it is for those who have something to seal.
    return cast("Sealer", await import_module("agentapi_mcp.auth.sealing").open_sealer(keys))


async def open_foundation(
    stack: AsyncExitStack, settings: Settings, environ: Mapping[str, str], clock: Clock, roles: Mapping[str, Role]
) -> Foundation:
    """Open the database, listen to signals of other processes, and find the operator's principal."""
    database, server = await open_store(stack, settings, environ)
    signals = await _open_signals(stack, server, database, settings, clock)
    profiles = PostgresProfiles(database)
    principal = await _operator(settings, profiles, roles)
    audit_store = PostgresAudit(database)
    audit = await stack.enter_async_context(AuditLog(audit_store, clock, operator=principal).open())
    return Foundation(
        stack=stack,
        settings=settings,
        clock=clock,
        database=database,
        signals=signals,
        profiles=profiles,
        principal=principal,
        audit=audit,
        owner_locks=_owner_locks(settings, environ),
        audit_partitions=_audit_partitions(audit_store, server, settings, clock),
    )


async def open_catalogue(base: Foundation, file: CatalogueFile, host: GuideHost) -> Catalogue:
    """Publish the operator's declarations, and build the backends that they name."""
    store, build = PostgresCatalogue(base.database), partial(build_backend, host)
    catalogue = Catalogue(store=store, file=file, build=build, clock=base.clock)
    base.stack.push_async_callback(catalogue.aclose)
    await catalogue.publish()
    base.stack.callback(base.signals.subscribe(partial(_expire_catalogue, catalogue)))
    return catalogue


def build_backend(host: GuideHost, declaration: AgentDeclaration) -> Backend:
    """Build the backend that a declaration names."""
    # Backends are found by name, so no type says what each of them needs: the host satisfies the widest port.
    return create(declaration.backend, declaration.options, host)


async def open_shared(base: Foundation, environ: Mapping[str, str], shares: Shares) -> Shared:
    """Open Redis if it is configured; otherwise caches, events and shares are those of this process."""
    local, health, settings = LocalTurnEvents(), PostgresHealth(base.database), base.settings
    clients = PostgresClients(base.database)
    if settings.redis_url is None:
        return Shared(
            cache=LocalSessionCache(base.clock),
            events=local,
            metrics=NoTurnMetrics(),
            health=health,
            accounts=NoAccountCache(),
            clients=clients,
            part=Part("cache", "in this process"),
        )
    # By name, so that a laptop without Redis does not pay for the import.
    redis, url = import_module("agentapi_mcp.stores.redis"), settings.redis_url.get_secret_value()
    variable = variable_of("redis_url", environ)
    client = await base.stack.enter_async_context(redis.open_redis(url, settings.redis_prefix, base.clock, variable))
    leases = Leases(redis.RedisLeases(client), base.clock)
    await base.stack.enter_async_context(leases.running())
    base.stack.enter_context(shares.leased(leases))
    gathered = await base.stack.enter_async_context(redis.open_gathered(client, base.clock))
    events = redis.open_turn_events(local, client, gathered, url, base.clock)
    return Shared(
        cache=redis.RedisSessionCache(LocalSessionCache(base.clock), client, gathered),
        events=await base.stack.enter_async_context(events),
        metrics=redis.RedisTurnMetrics(client, gathered),
        health=redis.RedisHealth(health, client),
        accounts=redis.RedisAccountCache(client, base.clock),
        clients=redis.RedisClientStates(clients, client),
        part=Part("redis", "by URL", client.probe),
    )


async def open_wallet(base: Foundation, file: CatalogueFile, shared: Shared, sealer: Sealer | None) -> Wallet:
    """Open what pays for turns besides the operator: keys that people bring, and accounts that they connect."""
    flows = LazyFlows(base.clock)
    base.stack.push_async_callback(flows.aclose)
    ports = TokenPorts(PostgresAccounts(base.database), shared.accounts, flows, base.clock)
    page = None if base.settings.origin is None else base.settings.origin + OVERVIEW
    accounts = await base.stack.enter_async_context(Accounts(ports, sealer, base.audit, page).open())
    accounts.reload(file.accounts, file.sign_in.page_issuers)
    return Wallet(ApiKeys(PostgresApiKeys(base.database), sealer, base.clock, base.audit), accounts)


def build_agents(
    base: Foundation, catalogue: Catalogue, shared: Shared, wallet: Wallet, parts: Sequence[Part]
) -> AgentServices:
    """Build the services on agents: policy, health, usage, and what pays for turns."""
    usage = Usage(PostgresUsage(base.database), base.clock)
    where = "embedded" if base.settings.database_url is None else "by URL"
    postgres = Part(
        "postgres",
        where,
        partial(login_remark, base.database),
        needed=True,
        has_answered_lately=partial(base.database.has_answered_within, _LATELY),
    )
    policy = CataloguePolicy(catalogue, PostgresOrganizations(base.database))
    health = Health(
        policy=policy,
        store=shared.health,
        clock=base.clock,
        parts=(postgres, shared.part, *parts),
        usage=usage,
    )
    agents = Agents(catalogue, health, wallet, policy)
    return AgentServices(agents=agents, policy=policy, health=health, usage=usage, wallet=wallet)


async def open_access(base: Foundation, file: CatalogueFile, wallet: Wallet, sealer: Sealer | None) -> Access:
    """Open the ways in by the rules of the operator's file."""
    authenticator = await _open_authenticator(base, file)
    requests = PostgresKeyRequests(base.database)
    pages = PageRequests(requests, sealer, base.clock, base.settings.origin, PagePurpose.ACCOUNT)
    key_requests = KeyRequests(requests, wallet.api_keys, sealer, base.clock, base.settings.origin)
    tokens = PostgresPersonalTokens(base.database)
    return Access(
        authenticator=authenticator,
        personal_tokens=PersonalTokens(tokens, base.clock, file.sign_in, base.audit),
        key_page_visits=KeyPageVisits(key_requests, authenticator, base.profiles, base.audit),
        account_page_visits=AccountPageVisits(pages, wallet.accounts, authenticator, base.profiles, base.audit),
    )


async def open_turns(
    base: Foundation, shared: Shared, services: AgentServices, shares: Shares, options: TurnRunnerOptions | None
) -> Turns:
    """Start the turn runner of this process."""
    ports = TurnPorts(
        turns=PostgresTurns(base.database),
        sessions=PostgresSessions(base.database),
        events=shared.events,
        signals=base.signals,
        clock=base.clock,
        shares=shares,
        profiles=base.profiles,
    )
    work = TurnWork(ports.sessions, shared.cache, shared.metrics, services.health, services.wallet, base.audit)
    owner = base.database.process
    if base.owner_locks is not None:
        base.stack.enter_context(base.owner_locks.held(owner))
    runner = TurnRunner(ports, options or _run_options(base.settings), work, owner=owner, locks=base.owner_locks)
    # Opened last, so closed first: running turns still need every store and backend.
    await base.stack.enter_async_context(runner.open())
    acceptance = TurnAcceptance(ports, runner, services.agents, services.wallet, base.audit)
    return Turns(ports, runner, acceptance, base.audit)


def build_transport(base: Foundation) -> Transport:
    """Build what lets any replica serve a client and receive change notifications."""
    return Transport(
        sessions=TransportSessions(PostgresMcpSessions(base.database), base.signals),
        elicitations=Elicitations(PostgresElicitations(base.database), base.signals),
        change_feed=ChangeFeed(base.signals),
    )


class LazyFlows:
    """The flows of accounts, made when the first is needed: most programs never connect one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._flows: Any = None

    def __call__(self, provider: AccountProvider) -> AccountFlow:
        """Return the flow of a provider."""
        if self._flows is None:
            # By name, so that a laptop without accounts does not pay for the import.
            self._flows = import_module("agentapi_mcp.auth.account_flows").AccountFlows(self._clock)
        return cast("AccountFlow", self._flows(provider))

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        if self._flows is not None:
            await self._flows.aclose()


def _expire_catalogue(catalogue: Catalogue, signal: Signal) -> None:
    if signal.kind is SignalKind.CATALOGUE_CHANGED:
        catalogue.expire()


async def _open_authenticator(base: Foundation, file: CatalogueFile) -> Authenticator | None:
    resource = base.settings.resource_url
    if resource is None:
        return None
    # By name, so that a program over stdio does not import cryptography.
    authenticators = import_module("agentapi_mcp.auth.authenticators")
    sign_ins = SignIns(PostgresIdentities(base.database), base.audit)
    authenticator = cast(
        "Authenticator",
        await base.stack.enter_async_context(authenticators.open_authenticator(resource, sign_ins, base.clock)),
    )
    await authenticator.reload(file.sign_in)
    return authenticator


def _audit_partitions(store: AuditStore, server: Server, settings: Settings, clock: Clock) -> AuditPartitions:
    """Build the upkeep of the audit log; that of the embedded server also drops what is past its retention."""
    # On another database an operator schedules the pruning; the embedded one has no operator.

    async def prune(before: datetime) -> tuple[str, ...]:
        return await prune_audit((await server.urls()).owner_url, before) if isinstance(server, EmbeddedServer) else ()

    retention = timedelta(days=settings.audit_retention_days)
    return AuditPartitions(store, clock, retention, prune if isinstance(server, EmbeddedServer) else None)


async def _open_signals(
    stack: AsyncExitStack, server: Server, database: Database, settings: Settings, clock: Clock
) -> PostgresSignals:
    direct = settings.listen_database_url
    listened = server if direct is None else RemoteServer(direct.get_secret_value())
    signals = PostgresSignals(listened, database, clock, "AGENTAPI_LISTEN_DATABASE_URL" if direct else None)
    group = await stack.enter_async_context(asyncio.TaskGroup())
    stack.callback(group.create_task(signals.run_sender()).cancel)
    if direct is None and not database.owns_connections:
        _log.warning(
            "no_listen",
            extra={
                "reason": "updates of other processes are polled: a pooler in transaction mode was found, or "
                "AGENTAPI_STATEMENT_CACHE is off; AGENTAPI_LISTEN_DATABASE_URL may lead past the pooler"
            },
        )
        return signals
    if direct is not None:
        await signals.check_address()
    listening = asyncio.Event()
    stack.callback(group.create_task(signals.run(listening.set)).cancel)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LISTEN_WITHIN.total_seconds()):
            await listening.wait()
    return signals


async def _operator(settings: Settings, profiles: ProfileStore, roles: Mapping[str, Role]) -> Principal:
    """Return the local user, who is made on first use, or the one that the settings name."""
    if settings.user_id is not None:
        return await _member(settings, profiles, roles, UserId(settings.user_id))
    local = await profiles.local_principal()
    return local if settings.org_id is None else await _member(settings, profiles, roles, local.user_id)


async def find_operator(settings: Settings, profiles: ProfileStore, roles: Mapping[str, Role]) -> Principal | None:
    """Find the same one and make nobody; None before the first start.

    Raises:
        ConfigurationError: the settings name somebody who is not in this database.
    """
    if settings.user_id is not None:
        return await _member(settings, profiles, roles, UserId(settings.user_id))
    local = await profiles.find_local_principal()
    if local is None or settings.org_id is None:
        return local
    return await _member(settings, profiles, roles, local.user_id)


async def _member(settings: Settings, profiles: ProfileStore, roles: Mapping[str, Role], user_id: UserId) -> Principal:
    if settings.org_id is None:
        raise ConfigurationError("Say AGENTAPI_ORG_ID beside AGENTAPI_USER_ID (or --org beside --user).")
    membership = await profiles.find_membership(user_id, OrgId(settings.org_id))
    if membership is None:
        raise ConfigurationError(
            f"The user {user_id} is no member of the organisation {settings.org_id} in this database; check "
            "AGENTAPI_USER_ID and AGENTAPI_ORG_ID, or --user and --org."
        )
    try:
        return member(user_id, membership, roles)
    except PermissionDeniedError as exc:
        raise ConfigurationError(
            f"The user {user_id} may not use the organisation {settings.org_id}: the database says that it is "
            f"{membership.status} (columns `status` and `is_deleted` of its profile, organisation or membership)."
        ) from exc


def _owner_locks(settings: Settings, environ: Mapping[str, str]) -> HomeOwnerLocks | None:
    """Return the locks of the home, where the processes that share its database are those of this machine."""
    return HomeOwnerLocks(home_of(settings, environ) / "owners") if settings.database_url is None else None


def _run_options(settings: Settings) -> TurnRunnerOptions:
    grace = settings.shutdown_grace_seconds
    # Of the connections of the pool, two of five are left to reads, and to what is reserved.
    places = max(3, pool_size(settings) * 3 // 5)
    to_finish = places // 3
    return TurnRunnerOptions(
        abandon_grace=timedelta(seconds=settings.abandon_grace_seconds),
        shutdown_grace=_SHUTDOWN_GRACE if grace is None else timedelta(seconds=grace),
        places=places,
        places_to_finish=to_finish,
        places_of_a_user=max(2, (places - to_finish) * 3 // 4),
        reserve_usd=settings.reserve_usd,
    )
