"""Which agents are asked with a key of the caller: those whose operator declared its provider, and that take keys."""

from dataclasses import replace

import pytest
from pydantic import SecretStr

from agentapi_mcp.auth.master_keys import MasterKey
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.core.backends.ports import Capability
from agentapi_mcp.core.catalogue.agents import Agents
from agentapi_mcp.core.catalogue.catalogue import Catalogue
from agentapi_mcp.core.catalogue.health import Health
from agentapi_mcp.core.catalogue.means import NO_MEANS
from agentapi_mcp.core.catalogue.models import AgentDeclaration, AgentRow, CatalogueFile
from agentapi_mcp.core.catalogue.policy import CataloguePolicy
from agentapi_mcp.core.keys.api_keys import ApiKeys, AvailableKeys, NewApiKey
from agentapi_mcp.core.keys.models import KeySource
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.database import Database
from tests.support.audits import audit_log
from tests.support.catalogues import CheckedBackend, MemoryCatalogue, MemoryHealth, agent_row, declared, model_row
from tests.support.clocks import ManualClock
from tests.support.members import new_member

TAKES_KEYS = frozenset({Capability.OWN_KEYS})
NO_KEYS = frozenset[Capability]()


async def keys_for(database: Database, provider: str) -> AvailableKeys:
    """Return the keys of a user who has one for a provider."""
    ann = await new_member(database)
    sealer = AesGcmSealer([MasterKey("one", bytes(range(32)))])
    api_keys = ApiKeys(PostgresApiKeys(database), sealer, SystemClock(), audit_log(database))
    await api_keys.add(ann, NewApiKey(provider=provider, value=SecretStr("sk-of-the-user-0123")))
    return await api_keys.available(ann)


def agents_of(row: AgentRow, declaration: AgentDeclaration, capabilities: frozenset[Capability]) -> Agents:
    clock = ManualClock()
    catalogue = Catalogue(
        store=MemoryCatalogue((row,)),
        file=CatalogueFile((declaration,), "sha"),
        build=lambda _: CheckedBackend(capabilities=capabilities),
        clock=clock,
    )
    return Agents(catalogue, Health(policy=CataloguePolicy(catalogue), store=MemoryHealth(clock), clock=clock))


@pytest.mark.parametrize(
    ("provider", "capabilities", "source"),
    [
        ("vendor", TAKES_KEYS, KeySource.USER),
        ("vendor", NO_KEYS, KeySource.SERVER),
        ("bank", TAKES_KEYS, KeySource.SERVER),  # the row was changed, the operator's file was not
    ],
)
async def test_a_key_goes_to_an_agent_that_takes_keys_and_was_declared_for_its_provider(
    provider: str, capabilities: frozenset[Capability], source: KeySource, database: Database
) -> None:
    keys = await keys_for(database, provider)
    row = agent_row("a", replace(model_row("m"), provider=provider))
    choice = await agents_of(row, declared("a", "m"), capabilities).resolve(means=replace(NO_MEANS, keys=keys))
    assert keys.has(provider)
    assert choice.key_source is source
