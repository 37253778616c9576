"""The address of a provider as it goes over the wire: what is written in a base URL, and nothing encoded twice."""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from yarl import URL

from agentapi_mcp.base.errors import BackendError, BackendFault

_LONGEST = 64 * 1024  # characters
_SCHEME = re.compile(r"https?:", re.IGNORECASE)
_PARTS = re.compile(
    r"(?P<scheme>\w+)://(?:[^/?#]*@)?(?P<host>\[[^/?#]*\]|[^:@/?#]*):?(?P<port>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?"
)
# What stays as it is in a query and in a path by the URL standard; also the percent sign of what is encoded already.
_IN_QUERIES = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"#<>')
_IN_PATHS = "".join(mark for mark in _IN_QUERIES if mark not in "?`{}")


@dataclass(frozen=True, slots=True)
class Address:
    """A URL without user name, password and fragment, and its host with the port as a request names it."""

    url: URL
    host: str


@lru_cache(100)  # parsing one takes a tenth of the CPU of its request
def address_of(url: str) -> Address:
    """Parse the URL of a request.

    Raises:
        BackendError: BAD_REQUEST, if it is not one of HTTP.
    """
    if not _SCHEME.match(url):
        raise BackendError(BackendFault.BAD_REQUEST, "The base URL is not one of HTTP.")
    try:
        return _parsed(url)
    except ValueError as error:
        raise BackendError(BackendFault.BAD_REQUEST, "The base URL is not a valid URL.") from error


def _parsed(url: str) -> Address:
    parts = _PARTS.match(url)
    if parts is None or not parts["host"] or len(url) > _LONGEST:
        raise ValueError(url)
    if any(char.isascii() and not char.isprintable() for char in url):
        raise ValueError(url)
    host = parts["host"].removeprefix("[").removesuffix("]")
    origin = URL.build(scheme=parts["scheme"].lower(), host=host, port=int(parts["port"]) if parts["port"] else None)
    path = quote(_without_dots(parts["path"]), safe=_IN_PATHS) or "/"
    query = quote(parts["query"] or "", safe=_IN_QUERIES)
    # yarl would decode what need not be encoded, and encode what need be: both change what was signed or configured.
    return Address(URL(f"{origin}{path}{query}", encoded=True), str(origin).partition("://")[2])


def _without_dots(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if kept not in ([], [""]):
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)
