"""Addresses of servers, as they may be shown to an operator."""

import re
from urllib.parse import parse_qs, urlsplit

_PORT = re.compile(r":\d+$")


def host_and_port(url: str, default_port: int) -> str | None:
    """Return host and port of a URL, or its Unix socket; None where a part of the password could be among them."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    # A password with an unencoded @, / or # moves the borders of the parts: then a part of it would be taken for the
    # host.
    if parts.netloc.count("@") != url.count("@") or url.count("@") > 1:
        return None
    if parts.scheme == "unix":
        return parts.path
    query = parse_qs(parts.query)
    named = query.get("host", [""])[0]
    if named.startswith("/"):  # the directory of a Unix socket, which has no port to reach
        return named
    host = named or parts.netloc.rpartition("@")[2]
    if not host or _PORT.search(host):
        return host or None
    return f"{host}:{query.get('port', [default_port])[0]}"
