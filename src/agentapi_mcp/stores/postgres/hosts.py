"""The servers of one address, of which one at a time is the primary."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import asyncpg

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.stores.postgres.faults import LOST, VARIABLE
from agentapi_mcp.stores.postgres.pool import Row

_TARGET = "target_session_attrs"
_PRIMARY = "primary"
_WRITABLE = frozenset({_PRIMARY, "read-write"})
# Of several failures the one that says most: the primary has no connection left, or none of those that answer is it.
_TELLING = (asyncpg.TooManyConnectionsError, asyncpg.TargetServerAttributeNotMatched)
_FILES = ("sslcert", "sslcrl", "sslkey", "sslrootcert")
_MOST_PORT = 65535


class Hosts:
    """An address that names one server or several; the one that was the primary last is tried first.

    One that said nothing is tried last: whoever waits a few seconds for the primary would not get past it.
    `moved` is called whenever another server is found to be the primary.
    asyncpg goes on to the next host too, but gives all of the time to the first one, and each time begins with it.

    Raises:
        ConfigurationError: its `target_session_attrs` asks for a server that cannot be written, or it names a file that
            cannot be read.
        ValueError: it cannot be taken apart.
    """

    def __init__(self, url: str, variable: str | None = None, moved: Callable[[], None] = lambda: None) -> None:
        self.url = url
        self._urls = split_hosts(url)
        for one in self._urls:
            _check_ports(one)
        _check_files(url, variable or VARIABLE)
        self._target = parse_qs(urlsplit(url).query).get(_TARGET, [None])[-1]
        self._moved = moved
        self._primary: str | None = None
        can_write = _WRITABLE if self.are_several else _WRITABLE | {"any"}
        if self._target is not None and self._target not in can_write:
            raise ConfigurationError(
                f"{variable or VARIABLE} must lead to a server that can be written: set its {_TARGET} to primary or "
                "read-write, or leave it out."
            )

    @property
    def are_several(self) -> bool:
        """Whether another server may become the primary."""
        return len(self._urls) > 1

    async def connect(self, timeout: float = 60, **options: Any) -> "asyncpg.Connection[Row]":  # noqa: ANN401, ASYNC109  # asyncpg's own
        """Connect to the primary within a time in seconds, of which each server gets its part.

        Raises:
            Exception: whatever asyncpg raises; of several servers, what tells most.
        """
        if not self.are_several:
            return await asyncpg.connect(self._urls[0], timeout=timeout, **options)
        options = {**options, _TARGET: self._target or _PRIMARY}
        failures = list[Exception]()
        for url in self._urls:
            try:
                raw = await asyncpg.connect(url, timeout=timeout / len(self._urls), **options)
            except asyncio.CancelledError:
                self._try_last(url)
                raise
            except (*LOST, *_TELLING) as exc:
                failures.append(exc)
                if isinstance(exc, TimeoutError):
                    self._try_last(url)
            else:
                self._note_primary(url)
                return raw
        raise next((exc for kind in _TELLING for exc in failures if isinstance(exc, kind)), failures[0])

    def doubt_primary(self) -> None:
        """Note that what was the primary says nothing, or takes no writes any more."""
        if self._primary is not None:
            self._try_last(self._primary)

    def _try_last(self, url: str) -> None:
        self._urls = (*(other for other in self._urls if other != url), url)

    def _note_primary(self, url: str) -> None:
        self._urls = (url, *(other for other in self._urls if other != url))
        before, self._primary = self._primary, url
        if before not in {None, url}:
            self._moved()


def split_hosts(url: str) -> tuple[str, ...]:
    """Return the address of each server that a URL names, in the forms that libpq knows.

    They are `//a:1,b:2/` and `?host=a,b&port=1,2`; a single port holds for all (libpq, "Specifying Multiple Hosts").

    Raises:
        ValueError: there are not as many ports as hosts, or one has no name.
    """
    parts = urlsplit(url)
    who, at, places = parts.netloc.rpartition("@")
    if "," in places:
        if not all(places.split(",")):
            raise ValueError(places)
        return tuple(parts._replace(netloc=f"{who}{at}{place}").geturl() for place in places.split(","))
    named = parse_qs(parts.query)
    hosts = named.get("host", [""])[-1].split(",")
    if places or len(hosts) == 1:
        return (url,)
    ports = named.get("port", [""])[-1].split(",")
    others = [pair for pair in parse_qsl(parts.query, strict_parsing=True) if pair[0] not in {"host", "port"}]
    queries = (
        urlencode([*others, ("host", host), *([("port", port)] if port else [])])
        for host, port in zip(hosts, ports * len(hosts) if len(ports) == 1 else ports, strict=True)
    )
    return tuple(_with_query(url, query) for query in queries)


def _check_ports(url: str) -> None:
    """Refuse what is no port: the driver may cut it down to one, and then knows only that nobody answers there."""
    parts = urlsplit(url)
    for port in (parts.port, *parse_qs(parts.query).get("port", [])):
        if port is not None and not 0 < int(port) <= _MOST_PORT:
            raise ValueError(port)


def _check_files(url: str, variable: str) -> None:
    # The driver reads them when it connects, and a file that is not there looks like a server that is not.
    query = parse_qs(urlsplit(url).query)
    for name in _FILES:
        for path in query.get(name, []):
            if not (Path(path).is_file() and os.access(path, os.R_OK)):
                raise ConfigurationError(f"{variable} names a file in its {name} that is not there or cannot be read.")


def _with_query(url: str, query: str) -> str:
    # Not by `geturl`, which leaves out the // before an empty host.
    return f"{url.partition('?')[0]}?{query}"
