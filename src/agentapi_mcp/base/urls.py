"""Parsing of HTTP URLs from configuration."""

import re
from urllib.parse import SplitResult, urlsplit

# What a URL can hold at all (RFC 3986, section 2). Python's parser lets all else through, quotes and line feeds too.
_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


def parse_http_url(url: str) -> SplitResult:
    """Split an http or https URL with a host.

    Raises:
        ValueError: it is not one; the message, without a subject, says what it must be.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no port
    except ValueError as exc:
        raise ValueError("is not a URL") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http or https URL with a host")
    if not _CHARACTERS.fullmatch(url):
        raise ValueError("holds a character that a URL cannot have; percent-encode it")
    return parts
