"""The settings; slow to import, so that commands do it when they read them."""

import re
import time
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from agentapi_mcp import __version__
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.ids import check_clock
from agentapi_mcp.base.origins import Origin
from agentapi_mcp.base.placeholders import unfilled
from agentapi_mcp.base.urls import parse_http_url
from agentapi_mcp.base.validation_messages import describe_fault
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.edges.mcp.options import DEFAULT_TOOLSET
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.environ import environment

VERSION = __version__
TOOLSETS = toolset_names()


def _split(value: object) -> object:
    return _names(value) if isinstance(value, str) else value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as exc:
        raise ValueError("begins with a ~ whose home directory is unknown") from exc


def _absolute(path: Path) -> Path:
    # A client starts the program in any directory, so a relative path would mean another place each time.
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or begin with ~/")
    return path


def _sendable(token: SecretStr) -> SecretStr:
    value = token.get_secret_value()
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("must be of printable ASCII characters, with no space at an end: clients send it in a header")
    return token


def _resource(url: str) -> str:
    whole = "must be the whole address that clients use, as in https://agents.example.com/mcp"
    try:
        parts = parse_http_url(url.strip())
    except ValueError as exc:
        raise ValueError(whole) from exc
    if parts.query or parts.fragment:
        raise ValueError(whole)
    if "@" in parts.netloc:
        raise ValueError("must not hold a name or a password: everybody is told this address")
    if Origin.parse(f"{parts.scheme}://{parts.netloc}") is None:
        raise ValueError(whole)
    if parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("must begin with https: tokens travel as they are; http is for this machine alone")
    return url.strip()


def _known_toolsets(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or set(names) - set(TOOLSETS):
        raise ValueError(f"must be one or more of {', '.join(TOOLSETS)}, with commas between them")
    return names


def _tool_prefix(prefix: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,20}", prefix) is None:
        raise ValueError("must be 1 to 20 letters, digits, '-' and '_'")
    return prefix


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        try:
            network = ip_network(name)
        except ValueError as exc:
            raise ValueError(
                "must be addresses or networks, as in 10.1.2.3 or 10.1.0.0/16, with commas between them"
            ) from exc
        if network.prefixlen == 0:
            raise ValueError("must not be every address: anybody could then claim to be anybody else")
    return names


# Names that other programs read, too.
_BARE = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}
BARE_NAMES = frozenset(_BARE.values())
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Place = Annotated[Path, AfterValidator(_expanded)]


class Settings(BaseSettings):
    """The program's settings; each is an environment variable with the prefix AGENTAPI_."""

    model_config = SettingsConfigDict(
        env_prefix="AGENTAPI_", frozen=True, extra="forbid", populate_by_name=True, env_ignore_empty=True
    )

    home: Annotated[
        Annotated[Place, AfterValidator(_absolute)] | None,
        Field(description="Where this user's data and configuration live, an absolute path."),
    ] = None
    config: Annotated[
        Place | None, Field(description="The configuration file; by default agentapi.toml in the home.")
    ] = None
    database_url: Annotated[
        SecretStr | None,
        Field(
            description="A Postgres 15 or newer to use instead of the embedded one; except over stdio also "
            "DATABASE_URL.",
            validation_alias=AliasChoices("AGENTAPI_DATABASE_URL", "DATABASE_URL", "database_url"),
        ),
    ] = None
    migrate_database_url: Annotated[
        SecretStr | None, Field(description="The login that owns the tables, for migrations; by default the same.")
    ] = None
    redis_url: Annotated[
        SecretStr | None,
        Field(
            description="A Redis or Valkey that replicas share; except over stdio also REDIS_URL.",
            validation_alias=AliasChoices("AGENTAPI_REDIS_URL", "REDIS_URL", "redis_url"),
        ),
    ] = None
    redis_prefix: Annotated[str, Field(max_length=100, description="What every key in Redis begins with.")] = ""
    user_id: Annotated[UUID | None, Field(description="Who you are in an existing database (profiles.id).")] = None
    org_id: Annotated[UUID | None, Field(description="Your organisation in an existing database.")] = None
    wait_seconds: Annotated[
        int | None, Field(ge=0, le=240, description="How long `chat` waits by default; else it depends on the client.")
    ] = None
    screen_reader: Annotated[
        bool,
        Field(description="Whether `chat` only prints lines, and never moves the cursor, as a screen reader needs."),
    ] = False
    log_level: Annotated[
        Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lowered)] | None,
        Field(description="What goes to the log on stderr; by default warning, and info for `serve`."),
    ] = None
    bearer_token: Annotated[
        Annotated[SecretStr, AfterValidator(_sendable)] | None,
        Field(min_length=16, description="What every client of `serve` must send as Authorization: Bearer."),
    ] = None
    require_token: Annotated[
        bool, Field(description="Whether `serve` lets nobody in without a token, as with --require-token.")
    ] = False
    toolsets: Annotated[
        Annotated[Names, AfterValidator(_known_toolsets)],
        Field(description=f"Which tools clients see: {', '.join(TOOLSETS)}, with commas between them."),
    ] = (DEFAULT_TOOLSET,)
    tool_prefix: Annotated[
        Annotated[str, AfterValidator(_tool_prefix)] | None,
        Field(description="What every tool's name begins with, such as house_, for clients that mix servers."),
    ] = None
    resource_url: Annotated[
        Annotated[str, AfterValidator(_resource)] | None,
        Field(description="The address that clients of `serve` use, for which access tokens are made."),
    ] = None
    master_key: Annotated[
        SecretStr | None,
        Field(description="What seals users' API keys: 32 bytes in base64; of several, with commas, the first seals."),
    ] = None
    master_key_file: Annotated[
        Place | None, Field(description="A file that holds the same, instead of AGENTAPI_MASTER_KEY.")
    ] = None
    master_key_command: Annotated[
        SecretStr | None, Field(description="A command that prints the same, run once at the start, without a shell.")
    ] = None
    allowed_hosts: Annotated[
        Names, Field(description="Host names that `serve` answers to beside localhost, with commas between them.")
    ] = ()
    allowed_origins: Annotated[
        Names, Field(description="Web origins that may call `serve` from a browser, with commas between them.")
    ] = ()
    tls_cert: Annotated[
        Place | None, Field(description="The certificate of `serve` with its chain, a PEM file; read again on SIGHUP.")
    ] = None
    tls_key: Annotated[Place | None, Field(description="The private key of that certificate, a PEM file.")] = None
    trusted_proxies: Annotated[
        Annotated[Names, AfterValidator(_networks)],
        Field(description="Addresses and networks of proxies whose X-Forwarded-For `serve` believes."),
    ] = ()
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=1_073_741_824, description="The largest request body that `serve` reads.")
    ] = 4_194_304
    max_open_requests: Annotated[
        int, Field(ge=1, le=1_000_000, description="The most requests and streams that `serve` holds open at once.")
    ] = 1000
    max_requests_per_minute: Annotated[
        int, Field(ge=1, le=100_000_000, description="The most requests of clients that this process takes a minute.")
    ] = 12_000
    statement_cache: Annotated[
        bool | None,
        Field(
            description="Whether statements stay prepared, and changes are listened for; by default where no pooler in "
            "transaction mode is found."
        ),
    ] = None
    listen_database_url: Annotated[
        SecretStr | None,
        Field(description="An address of the same database past the pooler, to listen for changes alone."),
    ] = None
    pool_size: Annotated[
        int | None,
        Field(
            ge=2,
            le=200,
            description="The most database connections of this process, at least 2; by default 5, `serve` 20. A tenth, "
            "at least one, is kept for sign-in and probes.",
        ),
    ] = None
    max_running_turns: Annotated[
        int, Field(ge=1, le=100_000, description="The most turns that run at once in this process.")
    ] = 1000
    reserve_usd: Annotated[
        Decimal,
        Field(
            ge=0,
            le=1000,
            max_digits=12,
            description="How many US dollars of its budgets a message reserves while it runs, where its cost is not "
            "known beforehand.",
        ),
    ] = Decimal("0.10")
    start_timeout_seconds: Annotated[
        float, Field(gt=0, le=600, description="How long a request waits for the database to come up.")
    ] = 60
    shutdown_grace_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            le=3600,
            description="How long running turns may go on when the program ends; by default 1.5, `serve` 20.",
        ),
    ] = None
    abandon_grace_seconds: Annotated[
        float, Field(ge=0, le=3600, description="How long a turn goes on after its only caller left without a reason.")
    ] = 15
    audit_retention_days: Annotated[
        int, Field(ge=1, le=36_500, description="How long the audit log is kept, in whole months.")
    ] = 400
    resident: Annotated[
        bool | None,
        Field(
            description="Whether clients over stdio share one server, which outlives them; by default on Linux, "
            "outside containers."
        ),
    ] = None
    resident_linger_seconds: Annotated[
        float, Field(ge=0, le=86_400, description="How long the server that clients share outlives its last client.")
    ] = 300
    postgres_linger_seconds: Annotated[
        float, Field(ge=0, le=86_400, description="How long the embedded Postgres outlives its last user.")
    ] = 60
    postgres_bindir: Annotated[
        Place | None, Field(description="Postgres binaries to use for the embedded server instead of the wheel's.")
    ] = None

    @property
    def origin(self) -> str | None:
        """The web origin of this server, as browsers serialize it (RFC 6454, section 6.2)."""
        if self.resource_url is None:
            return None
        parts = urlsplit(self.resource_url)
        return str(Origin.parse(f"{parts.scheme}://{parts.netloc}"))


def for_serving(settings: Settings) -> Settings:
    """Fill in the defaults of `serve`, where they differ from those of a single user's program."""
    chosen = {"log_level": "info", "pool_size": 20, "shutdown_grace_seconds": 20.0}
    return settings.model_copy(
        update={name: value for name, value in chosen.items() if getattr(settings, name) is None}
    )


def for_stdio(settings: Settings, environ: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
    """Take no address from a variable without our prefix, and name those that were set.

    A client starts the server in the environment of whatever project it works on, whose DATABASE_URL is its own.
    """
    bare = [field for field in _BARE if variable_of(field, environ) == _BARE[field]]
    return settings.model_copy(update=dict.fromkeys(bare)), tuple(_BARE[field] for field in bare)


def with_prefixed_names(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Give the addresses that this process reads without our prefix the names that a server over stdio reads."""
    values = {name.upper(): value for name, value in environ.items() if value}
    named = {f"AGENTAPI_{name}": values[name] for field, name in _BARE.items() if variable_of(field, environ) == name}
    return {**environ, **named}


def with_toolsets(settings: Settings, toolsets: str | None) -> Settings:
    """Override the toolsets with those of the command line.

    Raises:
        ConfigurationError: a toolset does not exist.
    """
    if toolsets is None:
        return settings
    try:
        return settings.model_copy(update={"toolsets": _known_toolsets(_names(toolsets))})
    except ValueError as exc:
        raise ConfigurationError(f"--toolsets {exc}.") from None


def with_tool_prefix(settings: Settings, prefix: str | None) -> Settings:
    """Override the prefix of the tools with that of the command line.

    Raises:
        ConfigurationError: it is too long, or has characters that names of tools do not have.
    """
    if prefix is None:
        return settings
    try:
        return settings.model_copy(update={"tool_prefix": _tool_prefix(prefix)})
    except ValueError as exc:
        raise ConfigurationError(f"--tool-prefix {exc}.") from None


def capacities_of(settings: Settings) -> dict[Resource, int]:
    """Return how much of each resource the settings give to one process."""
    return {
        Resource.REQUESTS: settings.max_requests_per_minute,
        Resource.OPEN_REQUESTS: settings.max_open_requests,
        Resource.RUNNING_TURNS: settings.max_running_turns,
    }


def load_settings(ignored: Collection[str] = ()) -> Settings:
    """Read the settings from the environment, and check the clock.

    Variables that are `ignored` later may hold anything that can be read.

    Raises:
        ConfigurationError: a variable is invalid; the message names it and the reason, never its value.
    """
    check_clock(time.time())
    placeholders = "; ".join(_placeholders(environment(), ignored))
    if placeholders:
        raise ConfigurationError(f"A setting is wrong: {placeholders}.")
    try:
        return Settings()
    except ValidationError as exc:
        faults = "; ".join(f"{_variable(fault['loc'])} {describe_fault(fault)}" for fault in exc.errors())
        raise ConfigurationError(f"A setting is wrong: {faults}.") from None


def _placeholders(environ: Mapping[str, str], ignored: Collection[str]) -> Iterator[str]:
    # Not the command, whose arguments may be templates of a program's own.
    read = {variable_of(field, environ) for field in Settings.model_fields if field != "master_key_command"}
    for name, value in sorted(environ.items()):
        reason = unfilled(value) if name.upper() in read - set(ignored) else None
        if reason is not None:
            yield f"{name} {reason}"


def variable_of(field: str, environ: Mapping[str, str]) -> str:
    """Name the variable that a setting is read from; of several names, the one that is set, else the first."""
    alias = Settings.model_fields[field].validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [f"AGENTAPI_{field.upper()}"]
    # Their case does not matter, and one that is empty counts as not set: `Settings` reads them so.
    given = {name.upper() for name, value in environ.items() if value}
    names = [name for name in choices if isinstance(name, str)]
    return next((name for name in names if name in given), names[0])


def _variable(place: tuple[int | str, ...]) -> str:
    name = str(place[0]) if place else "?"
    return name if name.isupper() else f"AGENTAPI_{name.upper()}"
