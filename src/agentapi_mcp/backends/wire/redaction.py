"""Redact provider messages: one short line without secrets, paths and control characters."""

import re
from collections.abc import Iterable

from agentapi_mcp.base.text import one_line, printable

LONGEST_LINE = 300
# Hiding a shorter one would garble every message.
_SHORTEST_SECRET = 4
_HIDDEN = "[hidden]"
_KEY_LIKE = re.compile(
    r"""(?ix)
    \b (?: sk | pk | rk | key | gsk | xai | hf | ghp | r8 ) [-_] [\w*.-]{6,}   # vendors' API keys, also half masked
    | \b AIza [\w-]{10,}
    | \b ya29\. [\w.-]{4,}
    | \b eyJ [\w-]{10,} (?: \. [\w-]* )*                                       # JSON web tokens
    | \b (?: bearer | basic ) \s+ [\w.~+/=*-]{4,}
    | (?<= [?&] ) (?: key | api_key | token | access_token ) = [^\s&]+
    """
)
_PATH = re.compile(r"(?<![\w/:.])(?:[A-Za-z]:)?[/\\](?:[\w.@~+-]+[/\\])+[\w.@~+-]+")


class Redactor:
    """Redacts messages with the secrets of one backend."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        # Longest first: a secret may contain another one.
        self._secrets = sorted(known, key=len, reverse=True)

    def also(self, secret: str) -> "Redactor":
        """Return a redactor with an additional secret."""
        return Redactor((*self._secrets, secret))

    def line(self, message: str) -> str:
        """Return the first non-empty line, redacted; may be empty."""
        # Cut first, so that the patterns do not run over a whole error page.
        lines = (self._clean(line) for line in message[: 20 * LONGEST_LINE].splitlines())
        return next((line for line in lines if line), "")

    def _clean(self, line: str) -> str:
        for secret in self._secrets:
            line = line.replace(secret, _HIDDEN)
        return one_line(_PATH.sub("[path]", _KEY_LIKE.sub(_HIDDEN, printable(line))), LONGEST_LINE)
