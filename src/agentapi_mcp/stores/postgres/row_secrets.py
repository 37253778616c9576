"""Find secrets in rows that signed-in users may read."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import LiteralString

import asyncpg

from agentapi_mcp.base.json_values import is_list, is_object
from agentapi_mcp.base.text import one_line

# Rows that may hold a secret, by a pattern that the server can search for: each as its name and its columns as JSON.
_ROWS: Mapping[str, LiteralString] = {
    "agents": "SELECT t.name::text AS name, to_jsonb(t)::text AS columns FROM public.agents t "
    "WHERE to_jsonb(t)::text ~* $1",
    "models": "SELECT t.name::text AS name, to_jsonb(t)::text AS columns FROM public.models t "
    "WHERE to_jsonb(t)::text ~* $1",
    "agent_health": "SELECT t.agent_id::text AS name, to_jsonb(t)::text AS columns FROM public.agent_health t "
    "WHERE to_jsonb(t)::text ~* $1",
    # Without the program's own rows, which have a protocol. The id of a session may be a secret: the row has no name.
    "mcp_sessions": "SELECT 'a session' AS name, "
    "jsonb_build_object('oauth_data', t.oauth_data, 'mcp_state', t.mcp_state)::text AS columns "
    "FROM public.mcp_sessions t WHERE concat(t.oauth_data::text, t.mcp_state::text) ~* $1 "
    "AND NOT coalesce(t.mcp_state ? 'protocol', false)",
}
SEARCHED = frozenset(_ROWS)
_WORDS = r"apikey|token|secret|passw(?:or)?d|passphrase|credentials?|authorization|cookie|dsn"
# The last word of a key in any of its usual spellings: api_key, apiKey, X-Api-Key, OPENROUTER_API_KEY.
_SECRET_KEY = re.compile(rf"(?:^|[^a-z])(?:{_WORDS})$|[a-z0-9][^a-z0-9]key$", re.IGNORECASE)
_HARMLESS_KEY = re.compile(r"(?:public|primary|foreign|partition|sort|cache|idempotency)[^a-z]key$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# `${NAME}`, `$NAME`, `<your key>`, `***`, `env:NAME`: what stands for a secret.
_PLACEHOLDER = re.compile(r"\$\{.*\}|\$\w+|<.*>|[*•.]+|(?:env|secret|vault|file)[:/].*", re.DOTALL)
_SECRET_FORMS = (
    r"\m(sk|pk|rk|key|gsk|xai|hf|ghp|github_pat|r8|fk|xox[abp])[-_][[:alnum:]_.-]{6,}",
    r"\m(AIza[[:alnum:]_-]{10,}|AKIA[0-9A-Z]{12,}|ya29\.[[:alnum:]_.-]{4,}|eyJ[[:alnum:]_-]{10,})",
    r"\m(bearer|basic)\s+[[:alnum:]_.~+/=-]{8,}",
    r"[[:alnum:]]://[^\s/@]*:[^\s/@]+@",
    "-----BEGIN [A-Z ]*PRIVATE KEY",
)
_FORM = re.compile(
    "|".join(form.replace(r"\m", r"\b").replace("[:alnum:]", "A-Za-z0-9") for form in _SECRET_FORMS), re.IGNORECASE
)
_SUSPICIOUS = "|".join((*_SECRET_FORMS, rf'(?:{_WORDS}|key)"\s*:'))
# What is named of a column; more would help nobody.
_MOST = 3
_LONGEST = 60


async def find_secrets(connection: "asyncpg.Connection[asyncpg.Record]", table: str) -> Mapping[str, tuple[str, ...]]:
    """Return the columns of a table in which secrets were found, each with the first places of them."""
    found: dict[str, list[str]] = {}
    if table in SEARCHED:
        async for row in connection.cursor(_ROWS[table], _SUSPICIOUS):
            for column, place in secret_places(json.loads(row["columns"])):
                places = found.setdefault(column, [])
                shown = one_line(f"{row['name']}: {place}" if place else str(row["name"]), _LONGEST)
                if len(places) < _MOST and shown not in places:
                    places.append(shown)
    return {column: tuple(places) for column, places in sorted(found.items())}


def secret_places(columns: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Find the strings of a row that look like secrets: their column, and the keys that lead to them."""
    for column, value in columns.items():
        for path in _paths(value, ()):
            yield column, ".".join(path)


def _paths(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, str):
        if looks_secret(path[-1] if path else "", value):
            yield path
    elif is_object(value):
        for key, each in value.items():
            yield from _paths(each, (*path, key))
    elif is_list(value):
        for each in value:
            yield from _paths(each, path)


def looks_secret(key: str, value: str) -> bool:
    """Return whether a string looks like a secret, by its form or by its key, and not like a reference to one."""
    value = value.strip()
    if not value or _PLACEHOLDER.fullmatch(value):
        return False
    key = _CAMEL.sub("_", key)
    return _FORM.search(value) is not None or (
        _SECRET_KEY.search(key) is not None and _HARMLESS_KEY.search(key) is None
    )
