"""Organisations in Postgres: settings, counts and limits."""

import json
from collections.abc import Mapping
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.errors import NotFoundError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.json_values import as_count, as_object, load_json
from agentapi_mcp.core.catalogue.models import Organization, OrganizationLimit, OrganizationNumbers
from agentapi_mcp.core.catalogue.policy import LISTS, read_settings
from agentapi_mcp.core.catalogue.ports import OrganizationStore
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.identity.shares import Resource
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.jsons import json_object

_GET: LiteralString = """
SELECT o.id, o.name::text AS name, o.settings::text AS settings, n.members, n.sessions, n.messages,
       n.turns::text AS turns, n.input_tokens, n.output_tokens, n.cost_usd
  FROM public.organizations o, agentapi.organization_numbers() n
 WHERE o.id = $1 AND o.id = ANY (agentapi.own_organization_ids())
   AND agentapi.may('organization:read', '{admin,owner}', 'admin')
"""
# What the sums leave out. A turn whose agent was never asked has no tokens and is known to have cost nothing.
_UNKNOWN: LiteralString = """
SELECT coalesce(sum(l.unpriced), 0) AS costs,
       count(*) FILTER (WHERE l.kind = 'turn' AND (l.input_tokens IS NULL OR l.output_tokens IS NULL)
                          AND l.cost_nanos IS DISTINCT FROM 0
                          AND NOT EXISTS (SELECT FROM agentapi.ledger c
                                           WHERE c.turn_id = l.turn_id AND c.kind = 'correction')) AS tokens
  FROM agentapi.ledger l
 WHERE l.org_id = $1 AND l.at > now() - interval '30 days'
"""
# Key by key, since other programs store theirs in the same column. The role is checked here as well, in case the table
# has no row-level security.
_CHANGE: LiteralString = """
UPDATE public.organizations SET settings = (coalesce(settings, '{}') || $2::text::jsonb) - $3::text[]
 WHERE id = $1 AND id = ANY (agentapi.own_organization_ids())
   AND agentapi.may('organization:edit', '{admin,owner}', 'admin')
"""
# One key within `limits`, which begins anew where it is no object, and goes with its last key.
_LIMIT: LiteralString = """
UPDATE public.organizations o
   SET settings = (
        SELECT CASE WHEN l.limits = '{}' THEN s.settings - 'limits'
                    ELSE s.settings || jsonb_build_object('limits', l.limits) END
          FROM (SELECT CASE jsonb_typeof(o.settings) WHEN 'object' THEN o.settings ELSE '{}' END AS settings) AS s
         CROSS JOIN LATERAL (SELECT s.settings -> 'limits' AS limits) AS w
         CROSS JOIN LATERAL (
                SELECT (CASE jsonb_typeof(w.limits) WHEN 'object' THEN w.limits ELSE '{}' END - $2::text)
                       || jsonb_strip_nulls(jsonb_build_object($2::text, $3::bigint)) AS limits) AS l)
 WHERE o.id = $1
"""


class PostgresOrganizations(OrganizationStore):
    """The organisation of a principal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def settings(self, principal: Principal) -> Mapping[str, object]:
        async with self._database.as_principal(principal, plan_once=True) as connection:
            text = await connection.fetchval(
                "SELECT settings::text FROM agentapi.own_organizations WHERE id = $1", principal.org_id
            )
        return _settings(text)

    @override
    async def get(self, principal: Principal) -> Organization:
        async with self._database.as_writer(principal) as connection:
            row = await connection.fetchrow(_GET, principal.org_id)
            if row is None:
                raise NotFoundError("There is no such organisation.")
            limits = await connection.fetch("SELECT resource, most, used, readable FROM agentapi.organization_limits()")
        # Nobody comes here without the right to the numbers: then there was no row.
        async with self._database.as_system(
            "count an organisation's turns of unknown cost", user=principal.user_id
        ) as connection:
            left_out = await connection.fetchrow(_UNKNOWN, principal.org_id)
        turns = {status: as_count(count) or 0 for status, count in json_object(row["turns"]).items()}
        # The function adds up what is known, to zero where nothing is: an answer of which tokens are known has some.
        unknown = turns and not row["input_tokens"] and not row["output_tokens"]
        return Organization(
            id=OrgId(row["id"]),
            name=row["name"],
            settings=read_settings(_settings(row["settings"])),
            numbers=OrganizationNumbers(
                members=row["members"],
                sessions=row["sessions"],
                messages=row["messages"],
                turns=turns,
                input_tokens=None if unknown else row["input_tokens"],
                output_tokens=None if unknown else row["output_tokens"],
                cost_usd=row["cost_usd"],
                unknown_tokens=left_out["tokens"] if left_out else 0,
                unknown_costs=left_out["costs"] if left_out else 0,
            ),
            limits=tuple(
                OrganizationLimit(
                    resource=Resource(limit["resource"]),
                    most=limit["most"],
                    used=limit["used"],
                    readable=limit["readable"],
                )
                for limit in limits
            ),
        )

    @override
    async def change(self, principal: Principal, changes: Mapping[str, object]) -> None:
        given = {name: value for name, value in changes.items() if value is not None}
        removed = [name for name, value in changes.items() if value is None]
        async with self._database.as_writer(principal) as connection:
            done = await connection.execute(_CHANGE, principal.org_id, json.dumps(given), removed)
        # Policies and conditions hide the row: it is another organisation's, or the role does not suffice.
        if done == "UPDATE 0":
            raise NotFoundError("There is no such organisation.")

    @override
    async def limit(self, operator: Principal, org_id: OrgId, name: str, most: int | None) -> None:
        async with self._database.as_system(
            "the operator sets a limit of an organisation", user=operator.user_id
        ) as connection:
            done = await connection.execute(_LIMIT, org_id, name, most)
        if done == "UPDATE 0":
            raise NotFoundError("There is no such organisation.")


def _settings(text: str | None) -> dict[str, object]:
    """Parse settings; those beyond the bounds of untrusted JSON allow nothing, since what they allow is unknown."""
    try:
        return as_object(load_json(text or "{}"))
    except (ValueError, RecursionError):
        return dict.fromkeys(LISTS, False)
