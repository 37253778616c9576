"""Secrets in the files of MCP clients: which values are some, and texts without them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TypeGuard

from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.mcp_clients import Entry, env_of

TYPE_CHECKING = False  # type checkers take it for true; it is slow to import, and needed where a file changes
if TYPE_CHECKING:
    import difflib
else:
    difflib = LazyModule("difflib")

HIDDEN = "[hidden]"
# Hiding a shorter one would garble every text.
_SHORTEST = 4
_WORDS = r"(?:api)?keys?|tokens?|secrets?|passw(?:or)?ds?|passphrase|pass|pat|credentials?|auth|authorization|cookie"
# A whole word of a name in any of its usual spellings: API_KEY, apiKey, X-Api-Key, --token.
_SECRET_NAME = re.compile(rf"(?<![a-z])(?:{_WORDS})(?![a-z])", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(?:FILE|PATH|DIR|HOME|CONFIG)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PASSWORD_IN_URL = re.compile(r"\w://[^\s/@]*:[^\s/@]+@")
_KEY_LIKE = re.compile(
    r"\b(?:(?:sk|pk|rk|key|gsk|xai|hf|ghp|github_pat|r8|fk)[-_][\w.-]{6,}|AIza[\w-]{10,}|eyJ[\w-]{10,})"
)
# As the clients write it: ${NAME}, ${env:NAME}, {env:NAME}, {file:PATH}, $NAME. A password may begin with a dollar.
_REFERENCE = re.compile(r"\$\{|\{(?:env|file):|^\$[A-Z_][A-Z0-9_]*$")
_BEARER = re.compile(r"(?i)\b(?:bearer|basic)\s+\S+")


def is_secret(name: str, value: str) -> bool:
    """Return whether the value of a name looks like a secret itself, not like a reference to one or its place."""
    if not value or _REFERENCE.search(value):
        return False
    if any(pattern.search(value) for pattern in (_PASSWORD_IN_URL, _KEY_LIKE, _BEARER)):
        return True
    return _SECRET_NAME.search(_CAMEL.sub("_", name)) is not None and _PLACE_NAME.search(name) is None


def secrets_held(entry: Entry) -> list[str]:
    """Return the names of variables and headers whose values stand in an entry and look like secrets."""
    named = env_of(entry) | as_object(entry.get("headers"))
    return [name for name, value in named.items() if isinstance(value, str) and is_secret(name, value)]


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """Return the values of an environment that look like secrets."""
    return [value for name, value in environ.items() if is_secret(name, value)]


def secrets_in(value: object, name: str = "") -> Iterator[str]:
    """Find the strings of a document that look like secrets, by their keys, their forms or the option before them."""
    if isinstance(value, str):
        option, _, rest = value.partition("=")
        if option.startswith("-") and is_secret(option, rest):
            yield rest
        elif is_secret(name, value):
            yield value
    elif is_object(value):
        for key, each in value.items():
            yield from _values(as_object(each)) if key in {"env", "environment"} or key.endswith("headers") else ()
            yield from secrets_in(each, key)
    elif is_list(value):
        for before, each in pairwise(["", *value]):
            yield from secrets_in(each, before if _is_option(before) else name)


def _is_option(word: object) -> TypeGuard[str]:
    """Return whether a word of a command is an option whose value is the next word."""
    return isinstance(word, str) and word.startswith("-") and "=" not in word


def _values(named: Mapping[str, object]) -> Iterator[str]:
    """Find the values of variables or headers, which may be secrets whatever their names are."""
    for name, value in named.items():
        if isinstance(value, str) and not _REFERENCE.search(value) and not _PLACE_NAME.search(name):
            yield value


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return the text with the secrets hidden, written as they are or as a string of JSON or TOML."""
    forms = {
        form
        for secret in secrets
        if len(secret) >= _SHORTEST
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    }
    for form in sorted(forms, key=len, reverse=True):  # a secret may contain another one
        text = text.replace(form, HIDDEN)
    return text


def difference(path: Path, before: str | None, after: str | None, secrets: Iterable[str]) -> str:
    """Return the change of a file as a unified diff with the secrets hidden; None stands for no file."""
    known = list(secrets)
    old, new = (hide(text or "", known).splitlines() for text in (before, after))
    old_name, new_name = ("/dev/null" if text is None else str(path) for text in (before, after))
    lines = list(difflib.unified_diff(old, new, old_name, new_name, lineterm=""))
    if not lines and before != after:
        return f"{path}: only hidden values, or ends of lines, change."
    return "\n".join(lines)
