"""Clients for one Redis, for the primary that Sentinel names, and for a cluster, by the address of each."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from agentapi_mcp.base.errors import ConfigurationError

# Seconds for the connection; a whole call has twice as long (docs/design/redis.md, rule 3).
DEADLINE = 0.5
_SENTINEL_PORT = 26379
_SENTINEL_LOGIN = {"sentinel_username": "username", "sentinel_password": "password"}
_MOST_CONNECTIONS = 10_000  # to each node of a cluster; each follower of a turn blocks one
_LOGIN = ("username", "password")
_TLS = (
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
)


@asynccontextmanager
async def open_connections(url: str, *, deadline: float | None, variable: str) -> AsyncGenerator[Redis]:
    """Open a client that connects on first use, and close its connections, those to sentinels too.

    Raises:
        ConfigurationError: it is no address of a Redis.
    """
    redis = make_redis(url, deadline=deadline, variable=variable)
    try:
        yield redis
    finally:
        await redis.aclose()
        pool: object = getattr(redis, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in cast("list[Redis]", cast("Any", pool).sentinel_manager.sentinels):
                await sentinel.aclose()


def is_cluster(redis: Redis) -> bool:
    """Return whether keys are spread over several nodes, by their slots."""
    return isinstance(cast("object", redis), RedisCluster)


def make_redis(url: str, *, deadline: float | None, variable: str = "AGENTAPI_REDIS_URL") -> Redis:
    """Return a client that connects on first use; that of a cluster has the same commands.

    Raises:
        ConfigurationError: it is no address of a Redis.
    """
    try:
        parts = urlsplit(url)
        kind = parts.scheme.partition("+")[2]
        _check_options(parts, kind, variable)
        if kind == "sentinel":
            return _make_sentinel_client(parts, deadline)
        if kind == "cluster":
            return _make_cluster_client(parts, deadline)
        _check_database("" if parts.scheme == "unix" else parts.path.strip("/"))
        return Redis.from_url(url, **_options(deadline))  # pyright: ignore[reportUnknownMemberType]  # redis leaves its keywords untyped
    except ValueError:
        raise ConfigurationError(
            f"{variable} is no address of a Redis: it begins with redis://, rediss:// or unix://, as in "
            "redis://:password@host:6379/0; for Sentinel it is redis+sentinel://host:26379,host:26379/NAME/0, for a "
            "cluster redis+cluster://host:6379,host:6379."
        ) from None


def _check_options(parts: SplitResult, kind: str, variable: str) -> None:
    """Refuse what each connection would fail for, or would no longer be what this program needs.

    The library takes every option for one of its connections', and looks at its value when the first one is opened.
    No option is named that is not known: it may be a part of a password.
    """
    pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    known = (
        *(("db",) if kind != "cluster" else ()),  # which has one alone
        *_LOGIN,
        *(_SENTINEL_LOGIN if kind == "sentinel" else ()),
        *(_TLS if parts.scheme.startswith("rediss") else ()),
    )
    if not {name for name, _ in pairs}.issubset(known):
        raise ConfigurationError(
            f"{variable} has an option after its `?` that is not known: here there are {', '.join(known)}. Remove it; "
            "in a password, write %3F for ? and %26 for &."
        )
    for name, value in pairs:
        if name == "db":
            _check_database(value)
    try:
        given: Mapping[str, Any] = cast("Mapping[str, Any]", parse_url(f"redis://?{parts.query}"))
        connection = SSLConnection(**{name: value for name, value in given.items() if name in _TLS})
        cast("Any", connection.ssl_context).get()  # redis leaves it untyped
    except (RedisError, OSError, TypeError, ValueError):
        raise ConfigurationError(
            f"{variable} has an option for TLS (ssl_...) with a value that cannot be used: a file that cannot be read, "
            "or a word that is not known."
        ) from None


def _check_database(number: str) -> None:
    # The library takes 0 for what is no number, and that may be somebody else's.
    if number and not number.isdecimal():
        raise ValueError(number)


def _options(deadline: float | None) -> dict[str, Any]:
    return {
        "protocol": 2,
        # Blocking commands need a socket timeout above the time that they wait at the server.
        "socket_timeout": deadline,
        "socket_connect_timeout": DEADLINE,
        # The library retries by default, which would multiply the deadline.
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "client_name": "agentapi-mcp",
    }


def _make_sentinel_client(parts: SplitResult, deadline: float | None) -> Redis:
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError(parts.path)
    _check_database(database)
    query = parse_qsl(parts.query, strict_parsing=bool(parts.query))
    login = {_SENTINEL_LOGIN[key]: value for key, value in query if key in _SENTINEL_LOGIN}
    rest = urlencode([pair for pair in query if pair[0] not in _SENTINEL_LOGIN])
    found = [_parse(parts, place, f"/{database}", rest) for place in _places(parts, _SENTINEL_PORT)]
    sentinels = [(one.pop("host"), one.pop("port")) for one in found]
    given = found[0]
    tls = {key: value for key, value in given.items() if key.startswith("ssl")}
    sentinel = Sentinel(
        sentinels,
        sentinel_kwargs={**_options(DEADLINE), **tls, **login},
        **given,
        **_options(deadline),
    )
    return sentinel.master_for(unquote(name))  # pyright: ignore[reportUnknownMemberType]  # as above


def _make_cluster_client(parts: SplitResult, deadline: float | None) -> Redis:
    if parts.path.strip("/") not in {"", "0"}:  # a cluster has this database alone
        raise ValueError(parts.path)
    found = [_parse(parts, place, "", parts.query) for place in _places(parts, 6379)]
    nodes = [ClusterNode(one.pop("host"), one.pop("port")) for one in found]
    # What the other nodes have is used while some slots have none.
    options: dict[str, Any] = {
        **_options(deadline),
        "require_full_coverage": False,
        "max_connections": _MOST_CONNECTIONS,
    }
    return cast("Redis", RedisCluster(startup_nodes=nodes, **found[0], **options))


def _places(parts: SplitResult, default_port: int) -> list[str]:
    places = parts.netloc.rpartition("@")[2].split(",")
    if not all(places):
        raise ValueError(parts.netloc)
    return [place if urlsplit(f"//{place}").port else f"{place}:{default_port}" for place in places]


def _parse(parts: SplitResult, place: str, path: str, query: str) -> dict[str, Any]:
    """Return what the library reads in the address of one server: host, port, login, database and its other options."""
    who, at, _ = parts.netloc.rpartition("@")
    scheme = parts.scheme.partition("+")[0]
    one = SplitResult(scheme, f"{who}{at}{place}", path, query, "").geturl()
    options: Mapping[str, Any] = cast("Mapping[str, Any]", parse_url(one))
    # For one server, TLS is a class of connections; for several it is an option.
    tls = {"ssl": True} if "connection_class" in options else {}
    return {**{key: value for key, value in options.items() if key != "connection_class"}, **tls}
