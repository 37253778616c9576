"""Agents and models in their existing tables; columns and keys of other programs are preserved."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import LiteralString

from typing_extensions import override

from agentapi_mcp.base.ids import AgentId, ModelRowId
from agentapi_mcp.base.json_values import as_amount, as_count, as_list, as_object, as_text
from agentapi_mcp.base.money import MOST_USD, RATES, Prices, Rates, Tier
from agentapi_mcp.core.audit.models import AuditEvent
from agentapi_mcp.core.catalogue.models import (
    AgentDeclaration,
    AgentRow,
    CatalogueFile,
    CatalogueRows,
    ModelDeclaration,
    ModelRow,
)
from agentapi_mcp.core.catalogue.ports import CatalogueStore
from agentapi_mcp.core.signals import Signal, SignalKind
from agentapi_mcp.stores.postgres.audit import append
from agentapi_mcp.stores.postgres.database import Connection, Database, Row
from agentapi_mcp.stores.postgres.jsons import json_object
from agentapi_mcp.stores.postgres.signals import tell

_SOURCE = "files"

# Locks the row, which is made if it is not there, until the file is written.
_LOCK: LiteralString = """
INSERT INTO agentapi.catalogue_files (source, sha256) VALUES ($1, '')
ON CONFLICT (source) DO UPDATE SET source = excluded.source
RETURNING sha256
"""

# Collation C: the same order on every server, whatever its locale.
_LOAD: LiteralString = """
SELECT a.id, a.name, a.type, a.description, a.enabled, a.config::text AS config,
       m.id AS model_row_id, m.name AS model_name, coalesce(m.model_id, m.name) AS model_id,
       coalesce(m.provider, 'unknown') AS provider, m.display_name,
       m.description AS model_description, m.enabled AS model_enabled, m.config::text AS model_config
  FROM public.agents a
  LEFT JOIN public.models m ON m.agent_id = a.id
 ORDER BY a.name COLLATE "C", m.name COLLATE "C"
"""

_WRITTEN: LiteralString = "SELECT sha256 FROM agentapi.catalogue_files WHERE source = $1"

# A mark, and no deletion: sessions, turns and bills refer to the row, and so may another process that declares it.
_REMOVE: LiteralString = """
UPDATE public.agents
   SET config = CASE coalesce(jsonb_typeof(config), 'null')
                    WHEN 'object' THEN config
                    WHEN 'null' THEN '{}'::jsonb
                    ELSE jsonb_build_object('previous', config)
                END || '{"removed": true}'
 WHERE id = $1
"""

# Our own keys are replaced and all others preserved; a config that is not an object moves to `previous`.
_UPSERT_AGENT: LiteralString = """
INSERT INTO public.agents AS a (name, type, description, enabled, config)
VALUES ($1, $2, $3, $4, $5::text::jsonb)
ON CONFLICT (name) DO UPDATE
   SET type = excluded.type, description = excluded.description, enabled = excluded.enabled,
       config = CASE coalesce(jsonb_typeof(a.config), 'null')
                    WHEN 'object' THEN a.config - ARRAY['instructions', 'default_model', 'declared', 'removed']
                    WHEN 'null' THEN '{}'::jsonb
                    ELSE jsonb_build_object('previous', a.config)
                END || excluded.config
RETURNING a.id
"""

_UPSERT_MODEL: LiteralString = """
INSERT INTO public.models AS m (agent_id, name, model_id, provider, display_name, description, enabled, config)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb)
ON CONFLICT (agent_id, name) DO UPDATE
   SET model_id = excluded.model_id, provider = excluded.provider, display_name = excluded.display_name,
       description = excluded.description, enabled = excluded.enabled,
       config = CASE coalesce(jsonb_typeof(m.config), 'null')
                    WHEN 'object' THEN m.config - ARRAY['context_window', 'max_output_tokens', 'prices', 'declared']
                    WHEN 'null' THEN '{}'::jsonb
                    ELSE jsonb_build_object('previous', m.config)
                END || excluded.config
"""


class PostgresCatalogue(CatalogueStore):
    """Rows of `agents` and `models`; only the config keys named here are read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    async def load(self) -> CatalogueRows:
        """Read all agents with their models, tolerating any config."""
        async with self._database.as_system("read the catalogue") as connection:
            rows = await connection.fetch(_LOAD)
            sha256 = await connection.fetchval(_WRITTEN, _SOURCE)
        by_agent: dict[AgentId, list[Row]] = {}
        for row in rows:
            by_agent.setdefault(AgentId(row["id"]), []).append(row)
        return CatalogueRows(tuple(_agent_row(agent_id, rows) for agent_id, rows in by_agent.items()), sha256 or "")

    @override
    async def write(self, file: CatalogueFile) -> bool:
        """Upsert the declarations, unless this hash is already written and all declared agents still exist.

        A model that we wrote and the file no longer names is disabled; no row is deleted.
        """
        async with self._database.as_system("write the catalogue") as connection:
            # Replicas start together with the same file: the first one writes it, the others find it written. By a lock
            # on a row: a login without any right can hold an advisory lock, and keep every replica from starting.
            known = await connection.fetchval(_LOCK, _SOURCE)
            if known == file.sha256 and await _has_all(connection, file):
                return False
            for agent in file.agents:
                await _write_agent(connection, agent)
            await connection.execute(
                "UPDATE agentapi.catalogue_files SET sha256 = $2, loaded_at = clock_timestamp() WHERE source = $1",
                _SOURCE,
                file.sha256,
            )
            await _notify_changed(connection)
        return True

    @override
    async def notify_changed(self) -> None:
        async with self._database.as_system("tell of the catalogue") as connection:
            await _notify_changed(connection)

    @override
    async def remove(self, agent_id: AgentId, event: AuditEvent) -> None:
        async with self._database.as_system("remove an agent", user=event.user_id) as connection:
            await connection.execute(_REMOVE, agent_id)
            await append(connection, [event])
            await _notify_changed(connection)


async def _notify_changed(connection: Connection) -> None:
    await tell(connection, Signal(SignalKind.CATALOGUE_CHANGED))


async def _has_all(connection: Connection, file: CatalogueFile) -> bool:
    names = [agent.name for agent in file.agents]
    found = await connection.fetchval(
        "SELECT count(*) FROM public.agents WHERE name = ANY($1::text[]) "
        "AND (config -> 'removed' = 'true'::jsonb) IS NOT TRUE",
        names,
    )
    return bool(found == len(names))


async def _write_agent(connection: Connection, agent: AgentDeclaration) -> None:
    agent_id = await connection.fetchval(
        _UPSERT_AGENT, agent.name, agent.backend, agent.description, agent.enabled, _agent_config(agent)
    )
    for model in agent.models:
        await connection.execute(
            _UPSERT_MODEL,
            agent_id,
            model.name,
            model.model_id,
            model.provider,
            model.display_name,
            model.description,
            model.enabled,
            _model_config(model),
        )
    await connection.execute(
        "UPDATE public.models SET enabled = false WHERE agent_id = $1 AND enabled AND name <> ALL($2::text[]) "
        "AND jsonb_typeof(config) = 'object' AND config -> 'declared' = 'true'::jsonb",
        agent_id,
        [model.name for model in agent.models],
    )


def _agent_config(agent: AgentDeclaration) -> str:
    return _json({"instructions": agent.instructions, "default_model": agent.default_model, "declared": True})


def _model_config(model: ModelDeclaration) -> str:
    prices = model.prices
    tiers = [{"above": tier.above, **_figures(tier)} for tier in prices.tiers]
    value = {
        "context_window": model.context_window,
        "max_output_tokens": model.max_output_tokens,
        "prices": {
            **_figures(prices),
            **({"tiers": tiers} if tiers else {}),
            **({"source": prices.source} if prices.source else {}),
            **({"on": prices.on.isoformat()} if prices.on else {}),
        },
        "declared": True,
    }
    return _json(value)


def _figures(rates: Rates) -> dict[str, object]:
    figures = {name: getattr(rates, name) for name in RATES}
    return {name: str(figure) for name, figure in figures.items() if figure is not None}


def _json(value: Mapping[str, object]) -> str:
    return json.dumps({key: value for key, value in value.items() if value is not None and value != {}})


def _agent_row(agent_id: AgentId, rows: Sequence[Row]) -> AgentRow:
    row = rows[0]
    config = _object(row["config"])
    return AgentRow(
        id=agent_id,
        name=row["name"],
        backend=row["type"],
        description=row["description"] or "",
        enabled=row["enabled"] is not False,
        means=as_text(config.get("agent")),
        instructions=as_text(config.get("instructions")),
        default_model=as_text(config.get("default_model")),
        models=tuple(_model_row(each) for each in rows if each["model_row_id"] is not None),
        removed=config.get("removed") is True,
    )


def _model_row(row: Row) -> ModelRow:
    config = _object(row["model_config"])
    return ModelRow(
        id=ModelRowId(row["model_row_id"]),
        name=row["model_name"],
        model_id=row["model_id"],
        provider=row["provider"],
        display_name=row["display_name"],
        description=row["model_description"],
        enabled=row["model_enabled"] is not False,
        context_window=as_count(config.get("context_window")) or None,
        max_output_tokens=as_count(config.get("max_output_tokens")) or None,
        prices=_prices(config.get("prices")),
        declared=config.get("declared") is True,
    )


def _prices(value: object) -> Prices:
    value = as_object(value)
    tiers = {as_count(tier.get("above")): tier for tier in map(as_object, as_list(value.get("tiers")))}
    return Prices(
        **_rates(value),
        tiers=tuple(Tier(above=above, **_rates(tiers[above])) for above in sorted(filter(None, tiers))),
        source=as_text(value.get("source")),
        on=_day(value.get("on")),
    )


def _rates(value: Mapping[str, object]) -> dict[str, Decimal | None]:
    amounts = {name: as_amount(value.get(name)) for name in RATES}
    return {name: amount if amount is not None and amount <= MOST_USD else None for name, amount in amounts.items()}


def _object(text: str | None) -> dict[str, object]:
    return json_object(text, parse_float=Decimal)


def _day(value: object) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
