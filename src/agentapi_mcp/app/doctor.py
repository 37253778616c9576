"""This installation of the program, as the doctor examines it."""

import asyncio
import platform
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from typing_extensions import override

from agentapi_mcp.app.backend_host import ProcessBackendHost
from agentapi_mcp.app.build import LazyFlows, build_backend, find_operator, open_sealer
from agentapi_mcp.app.database import embedded_postgres, open_unchanged_store
from agentapi_mcp.app.home import home_of
from agentapi_mcp.app.startup import open_app
from agentapi_mcp.app.stranger import check_resource, has_unknown_proxy
from agentapi_mcp.auth.fetching import FetchError
from agentapi_mcp.auth.keys import count_keys
from agentapi_mcp.backends.registry import names
from agentapi_mcp.base.addresses import host_and_port
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, IssuerUnavailableError, StoreUnavailableError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.core.access.models import Issuer
from agentapi_mcp.core.accounts.ports import FlowRefusedError, FlowUnavailableError
from agentapi_mcp.core.catalogue.agent_views import agent_view
from agentapi_mcp.core.catalogue.catalogue import Catalogue, CatalogueEntry
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.models import AgentView, CatalogueFile
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.diagnosis.doctor import Doctor
from agentapi_mcp.core.diagnosis.models import DatabaseFacts, Declarations, PendingDatabase, SignInSetup
from agentapi_mcp.core.diagnosis.ports import ConfiguredInstallation
from agentapi_mcp.core.diagnosis.unwritten import UnwrittenCatalogue, UnwrittenHealth
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.settings import VERSION, Settings, load_settings, variable_of
from agentapi_mcp.stores.local.catalogue_files import DEFAULTS, catalogue_paths, load_catalogue, named_variables
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.diagnosis import find_organizations, read_facts
from agentapi_mcp.stores.postgres.hosts import split_hosts
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from agentapi_mcp.web.certificates import open_certificate
from agentapi_mcp.web.hosts import allowed_names
from agentapi_mcp.web.reach import Reach

_REDIS_PORT = 6379
_NOWHERE = "http://127.0.0.1/accounts/"  # a redirect URI that is not used


@dataclass(frozen=True, slots=True)
class ThisInstallation:
    """This program, before its settings are read.

    `is_guarded` means that `serve` is started with an option that says who guards it.
    """

    environ: Mapping[str, str]
    clock: Clock
    load: Callable[[], Settings] = load_settings
    is_guarded: bool = False

    @property
    def program(self) -> str:
        """Describe the version and the interpreter."""
        return (
            f"agentapi-mcp {VERSION} on {platform.python_implementation()} {platform.python_version()}, "
            f"{sys.executable}"
        )

    def configure(self) -> "ThisConfiguration":
        """Read the settings."""
        return ThisConfiguration(self.load(), self.environ, self.clock, self.is_guarded)


@dataclass(frozen=True, slots=True)
class ThisConfiguration(ConfiguredInstallation):
    """This program with its settings."""

    settings: Settings
    environ: Mapping[str, str]
    clock: Clock
    is_guarded: bool = False

    @property
    @override
    def home(self) -> Path:
        return home_of(self.settings, self.environ)

    @property
    @override
    def database_log(self) -> Path:
        return self.home / "pg18" / "pg.log"

    @property
    @override
    def is_remote(self) -> bool:
        return self.settings.database_url is not None

    @property
    @override
    def is_exposed(self) -> bool:
        if self.settings.database_url is None:
            return False
        try:
            urls = split_hosts(self.settings.database_url.get_secret_value())
        except ValueError:  # the check of the database reports it
            return True
        return any(_is_elsewhere(urlsplit(url).hostname) for url in urls)

    @override
    def variable_of(self, field: str) -> str:
        return variable_of(field, self.environ)

    @override
    def variables(self) -> frozenset[str]:
        try:
            paths = self.configuration_paths()
        except AgentApiError:  # the check of the configuration reports it
            paths = ()
        settings = (f"AGENTAPI_{name.upper()}" for name in Settings.model_fields)
        return frozenset({*settings, *named_variables((*paths, DEFAULTS))})

    @override
    def configuration_paths(self) -> tuple[Path, ...]:
        return catalogue_paths(self.settings.config, self.home)

    @override
    def read_configuration(self) -> Declarations:
        """Read the configuration files, and find which agents are unchanged from the packaged defaults."""
        paths = self.configuration_paths()
        agents = {agent.name: agent for agent in self._file().agents}
        offered = load_catalogue([DEFAULTS], self.environ, names).agents
        return Declarations(
            own_files=tuple(str(path) for path in paths if path != DEFAULTS),
            agents=agents,
            packaged=frozenset(agent.name for agent in offered if agent == agents.get(agent.name)),
        )

    @override
    def sign_in(self) -> SignInSetup:
        settings, rules = self.settings, self._file().sign_in
        reach = Reach(
            address="127.0.0.1",  # unless an option says another
            hosts=settings.allowed_hosts,
            origins=settings.allowed_origins,
            trusted_proxies=settings.trusted_proxies,
            resource_url=settings.resource_url,
            has_token=settings.bearer_token is not None,
            needs_token=settings.require_token,
            insecure=self.is_guarded,
        )
        refusal = _refusal(lambda: reach.check_sign_in(rules))
        return SignInSetup(
            issuers=rules.issuers,
            resource_url=settings.resource_url,
            broken=self._find_broken(),
            refusal=refusal,
            needs_token=_refusal(reach.check_tokens),
        )

    def _find_broken(self) -> str | None:
        """Check what `serve` checks of its settings before it listens."""
        settings = self.settings
        checks: Mapping[str, Callable[[], object]] = {
            "AGENTAPI_ALLOWED_HOSTS": lambda: allowed_names(settings.allowed_hosts, ()),
            "AGENTAPI_ALLOWED_ORIGINS": lambda: allowed_names((), settings.allowed_origins),
            "AGENTAPI_TLS_CERT and AGENTAPI_TLS_KEY": lambda: open_certificate(settings.tls_cert, settings.tls_key),
        }
        refusals = {names: _refusal(check) for names, check in checks.items()}
        return next((f"{names}: {refusal}" for names, refusal in refusals.items() if refusal is not None), None)

    def _file(self) -> CatalogueFile:
        return load_catalogue(self.configuration_paths(), self.environ, names)

    @override
    async def check_database(self) -> DatabaseFacts | PendingDatabase:
        if self.settings.database_url is None:
            postgres = embedded_postgres(self.settings, self.environ)
            if not await asyncio.to_thread(postgres.check_start):
                return PendingDatabase(f"the first start makes it in {self.home}")
        async with open_unchanged_store(self.settings, self.environ) as database:
            if database is None:
                return PendingDatabase("the next start brings its tables to this version")
            return await read_facts(database, self.clock)

    @override
    async def check_issuer(self, issuer: Issuer) -> int:
        try:
            return await count_keys(issuer)
        except FetchError as exc:
            raise IssuerUnavailableError(f"{exc}.") from exc

    @override
    async def check_accounts(self) -> Sequence[str]:
        providers = self._file().accounts
        if providers and await open_sealer(self.settings) is None:
            raise ConfigurationError(
                "The configuration file declares [[accounts]], and nobody can connect one: there is no "
                "AGENTAPI_MASTER_KEY, which seals them (`agentapi-mcp secrets generate` makes one)."
            )
        flows = LazyFlows(self.clock)
        try:
            for provider in providers:
                try:
                    # The first step alone: it reads the provider's metadata, and tells it of nobody.
                    await flows(provider).begin(provider, _NOWHERE)
                except (FlowRefusedError, FlowUnavailableError) as exc:
                    raise IssuerUnavailableError(f"Nobody can connect an account at {provider.name}: {exc}.") from exc
        finally:
            await flows.aclose()
        return [provider.name for provider in providers]

    @override
    async def check_resource(self, setup: SignInSetup) -> None:
        if setup.resource_url is not None:
            await check_resource(setup.resource_url, [issuer.issuer for issuer in setup.issuers])

    @override
    async def has_unknown_proxy(self) -> bool | None:
        return await has_unknown_proxy(self.settings.origin)

    @override
    async def find_organizations(self, ids: Collection[OrgId]) -> Collection[OrgId]:
        async with open_unchanged_store(self.settings, self.environ) as database:
            return frozenset[OrgId]() if database is None else await find_organizations(database, ids)

    @override
    async def check_agents(self) -> Sequence[AgentView]:
        file = self._file()
        await open_sealer(self.settings)  # a key that cannot be read stops every start
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(open_unchanged_store(self.settings, self.environ))
            host = ProcessBackendHost(self.clock, self.environ)
            stack.push_async_callback(host.aclose)
            store = UnwrittenCatalogue(None if database is None else PostgresCatalogue(database))
            catalogue = Catalogue(store=store, file=file, build=partial(build_backend, host), clock=self.clock)
            stack.push_async_callback(catalogue.aclose)
            await catalogue.publish()
            entries = await self._allowed(catalogue, database, file)
            health = Health(policy=CataloguePolicy(catalogue), store=UnwrittenHealth(), clock=self.clock)
            measured = await health.measure(entries, fresh=True)
        return [agent_view(entry, measured) for entry in entries]

    async def _allowed(
        self, catalogue: Catalogue, database: Database | None, file: CatalogueFile
    ) -> Sequence[CatalogueEntry]:
        """List the agents that the operator's organisation allows; all, before the first start makes it."""
        if database is not None:
            operator = await find_operator(self.settings, PostgresProfiles(database), file.sign_in.roles)
            if operator is not None:
                return await CataloguePolicy(catalogue, PostgresOrganizations(database)).entries(operator)
        return await catalogue.entries()

    @override
    async def check_redis(self) -> timedelta | None:
        settings = self.settings
        if settings.redis_url is None:
            return None
        # By name, so that a laptop without Redis does not pay for the import.
        redis = import_module("agentapi_mcp.stores.redis")
        url, variable = settings.redis_url.get_secret_value(), self.variable_of("redis_url")
        async with redis.open_redis(url, settings.redis_prefix, self.clock, variable) as client:
            begun = self.clock.monotonic()
            try:
                await client.probe()
            except StoreUnavailableError as exc:
                place = host_and_port(url, _REDIS_PORT)
                exc.add_note(f"Start it, or correct {variable}{f' (it names {place})' if place else ''}.")
                raise
            return timedelta(seconds=self.clock.monotonic() - begun)

    @asynccontextmanager
    @override
    async def open_program(self) -> AsyncGenerator[ServicesProvider]:
        async with open_app(self.settings, self.environ) as app:
            yield app.services_provider


def _is_elsewhere(host: str | None) -> bool:
    if not host or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


def _refusal(check: Callable[[], object]) -> str | None:
    try:
        check()
    except ConfigurationError as exc:
        return str(exc)
    return None


def create_doctor(environ: Mapping[str, str], *, is_guarded: bool = False) -> Doctor:
    """Build the doctor of this installation, whose `serve` an option may say to be guarded."""
    clock = SystemClock()
    return Doctor(ThisInstallation(environ, clock, is_guarded=is_guarded), clock)
