"""Assembles the services that edges use, and closes them in reverse order."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from agentapi_mcp.app.backend_host import ProcessBackendHost
from agentapi_mcp.app.build import (
    Access,
    FileCheck,
    build_agents,
    build_transport,
    catalogue_watch,
    open_access,
    open_catalogue,
    open_foundation,
    open_sealer,
    open_shared,
    open_turns,
    open_wallet,
)
from agentapi_mcp.app.jobs import build_jobs, jobs_part
from agentapi_mcp.app.replicas import build_replicas, configuration_hash, replicas_part
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.core.access.members import Memberships
from agentapi_mcp.core.accounts.accounts import Accounts
from agentapi_mcp.core.budgets.budgets import Budgets
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.health import Part
from agentapi_mcp.core.catalogue.models import CatalogueFile
from agentapi_mcp.core.catalogue.organizations import Organizations
from agentapi_mcp.core.catalogue.replicas import Replicas
from agentapi_mcp.core.catalogue.terms import Terms
from agentapi_mcp.core.catalogue.undeclared import UndeclaredAgents
from agentapi_mcp.core.clients.preferences import Clients
from agentapi_mcp.core.conversations.facts import Facts
from agentapi_mcp.core.conversations.runner_options import TurnRunnerOptions
from agentapi_mcp.core.conversations.sessions import Sessions
from agentapi_mcp.core.conversations.tasks import Tasks
from agentapi_mcp.core.identity.shares import Resource, Shares
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.budgets import PostgresBudgets
from agentapi_mcp.stores.postgres.facts import PostgresFacts
from agentapi_mcp.stores.postgres.members import PostgresMembers
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.tasks import PostgresTasks
from agentapi_mcp.stores.postgres.terms import PostgresTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class AppOptions:
    """How the program is opened.

    A replica compares its configuration with that of the others; commands and servers over stdio are none. Without
    `run_options`, the settings say how turns are run. `check` is for the configuration file at the start, and for each
    change of it. `capacities` go before those of the settings. `parts` are those of the server that the edge adds.
    """

    is_replica: bool = False
    run_options: TurnRunnerOptions | None = None
    check: FileCheck = lambda _: None
    capacities: Mapping[Resource, int] = field(default_factory=dict[Resource, int])
    parts: Sequence[Part] = ()


@asynccontextmanager
async def open_services(
    settings: Settings, environ: Mapping[str, str], clock: Clock, shares: Shares, options: AppOptions
) -> AsyncGenerator[Services]:
    """Open stores, backends and services; close them in reverse order, running turns first."""
    async with AsyncExitStack() as stack:
        watch = catalogue_watch(settings, environ, clock, options.check)
        # Before anything is opened, since a mistake in the file stops the start.
        file = watch.read()
        sealer = await open_sealer(settings)
        base = await open_foundation(stack, settings, environ, clock, file.sign_in.roles)
        host = ProcessBackendHost(clock, environ)
        # Before the catalogue, so that it closes after the backends that use it.
        stack.push_async_callback(host.aclose)
        catalogue = await open_catalogue(base, file, host)
        shared = await open_shared(base, environ, shares)
        replicas = build_replicas(base, file) if options.is_replica else None
        jobs = build_jobs(base)
        parts = [Part("configuration", "files", watch.probe), jobs_part(jobs), *options.parts]
        if replicas is not None:
            parts.append(replicas_part(replicas))
        wallet = await open_wallet(base, file, shared, sealer)
        agents = build_agents(base, catalogue, shared, wallet, parts)
        access = await open_access(base, file, wallet, sealer)
        turns = await open_turns(base, shared, agents, shares, options.run_options)
        transport = build_transport(base)
        services = Services(
            principal=base.principal,
            authenticator=access.authenticator,
            personal_tokens=access.personal_tokens,
            turns=turns,
            tasks=Tasks(PostgresTasks(base.database), turns),
            sessions=Sessions(PostgresSessions(base.database), shared.cache, base.audit, shares),
            facts=Facts(PostgresFacts(base.database), clock, base.audit),
            agents=agents.agents,
            undeclared_agents=UndeclaredAgents(catalogue, base.audit),
            budgets=Budgets(PostgresBudgets(base.database), catalogue, base.audit),
            terms=Terms(PostgresTerms(base.database), base.audit),
            organizations=Organizations(PostgresOrganizations(base.database), catalogue, base.audit),
            memberships=Memberships(PostgresMembers(base.database), clock, base.audit, file.sign_in.roles),
            clients=Clients(shared.clients, agents.policy, clock),
            wallet=wallet,
            api_keys=wallet.api_keys,
            accounts=wallet.accounts,
            key_page_visits=access.key_page_visits,
            account_page_visits=access.account_page_visits,
            health=agents.health,
            usage=agents.usage,
            audit=base.audit,
            transport_sessions=transport.sessions,
            elicitations=transport.elicitations,
            change_feed=transport.change_feed,
            shares=shares,
            reload=watch.wake,
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        apply = partial(_reload, base.settings, catalogue, access, wallet.accounts, replicas)
        stack.callback(group.create_task(watch.run(apply)).cancel)
        await stack.enter_async_context(jobs.open())
        if replicas is not None:
            await stack.enter_async_context(replicas.open())
        # Last, since the guide reads the services, and they hold the backend of the guide.
        host.view.attach(services)
        yield services


async def _reload(
    settings: Settings,
    catalogue: Catalogue,
    access: Access,
    accounts: Accounts,
    replicas: Replicas | None,
    file: CatalogueFile,
) -> None:
    """Apply a changed configuration file."""
    await catalogue.reload(file)
    if replicas is not None:
        replicas.configure(configuration_hash(settings, file))
    access.personal_tokens.reload(file.sign_in)
    accounts.reload(file.accounts, file.sign_in.page_issuers)
    if access.authenticator is not None:
        await access.authenticator.reload(file.sign_in)
