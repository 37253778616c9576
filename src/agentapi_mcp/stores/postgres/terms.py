"""Providers and terms in Postgres (0019_facts.sql)."""

from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.core.catalogue.ports import TermStore
from agentapi_mcp.core.catalogue.term_models import AuthType, Provider, Term, TermKind
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.stores.postgres.database import Database, Row

_PROVIDERS: LiteralString = """
SELECT id, name, description, auth_type, base_url, is_active, added_at FROM agentapi.providers
"""
_TERMS: LiteralString = """
SELECT kind, id, name, description, category, icon, color, is_active, sort_order, added_at FROM agentapi.terms
"""
_ALL_PROVIDERS: LiteralString = f"{_PROVIDERS} ORDER BY id"
_ALL_TERMS: LiteralString = f"{_TERMS} ORDER BY kind, sort_order, id"
_ONE_PROVIDER: LiteralString = f"{_PROVIDERS} WHERE id = $1"
_ONE_TERM: LiteralString = f"{_TERMS} WHERE kind = $1 AND id = $2"
_ADD_PROVIDER: LiteralString = """
INSERT INTO agentapi.providers (id, name, description, auth_type, base_url) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING *
"""
_ADD_TERM: LiteralString = """
INSERT INTO agentapi.terms (kind, id, name, description, category, icon, color, sort_order)
SELECT $1::text, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text,
       coalesce($8::integer, (SELECT coalesce(max(t.sort_order), 0) + 1 FROM agentapi.terms t WHERE t.kind = $1::text))
ON CONFLICT DO NOTHING RETURNING *
"""


class PostgresTerms(TermStore):
    """The words of all organisations alike. What is there is never changed: the program has no right to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def providers(self, principal: Principal) -> tuple[Provider, ...]:
        async with self._database.as_principal(principal) as connection:
            rows = await connection.fetch(_ALL_PROVIDERS)
        return tuple(map(_provider, rows))

    @override
    async def terms(self, principal: Principal) -> tuple[Term, ...]:
        async with self._database.as_principal(principal) as connection:
            rows = await connection.fetch(_ALL_TERMS)
        return tuple(map(_term, rows))

    @override
    async def add_provider(self, operator: Principal, provider: Provider) -> tuple[Provider, bool]:
        values = provider.id, provider.name, provider.description, provider.auth_type, provider.base_url
        async with self._database.as_system("the operator adds a provider", user=operator.user_id) as connection:
            added = await connection.fetch(_ADD_PROVIDER, *values)
            found = added or await connection.fetch(_ONE_PROVIDER, provider.id)
        return _provider(found[0]), bool(added)

    @override
    async def add_term(self, operator: Principal, term: Term) -> tuple[Term, bool]:
        key = term.kind, term.id
        values = term.name, term.description, term.category, term.icon, term.color, term.sort_order
        async with self._database.as_system("the operator adds a term", user=operator.user_id) as connection:
            added = await connection.fetch(_ADD_TERM, *key, *values)
            found = added or await connection.fetch(_ONE_TERM, *key)
        return _term(found[0]), bool(added)


def _provider(row: Row) -> Provider:
    return Provider(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        auth_type=AuthType(row["auth_type"]),
        base_url=row["base_url"],
        is_active=row["is_active"],
        added_at=row["added_at"],
    )


def _term(row: Row) -> Term:
    return Term(
        kind=TermKind(row["kind"]),
        id=row["id"],
        name=row["name"],
        description=row["description"],
        category=row["category"],
        icon=row["icon"],
        color=row["color"],
        sort_order=row["sort_order"],
        is_active=row["is_active"],
        added_at=row["added_at"],
    )
