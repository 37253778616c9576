"""Locks that a login without rights could hold: none keeps the program waiting."""

import asyncpg
import pytest

from agentapi_mcp.core.catalogue.models import CatalogueFile
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.catalogue import PostgresCatalogue
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.migrate import migrate
from tests.conftest import DatabaseUrls
from tests.support.catalogues import declared
from tests.support.logins import login_of

OUTSIDE = ("anon", "authenticated")
# The keys that the first versions of the program took.
ADVISORY = "SELECT pg_advisory_lock(7206310), pg_advisory_lock(hashtextextended('agentapi.catalogue', 0))"
TABLES = """
SELECT oid::regclass::text AS name FROM pg_class
 WHERE relnamespace = 'agentapi'::regnamespace AND relkind IN ('r', 'p', 'v') ORDER BY 1
"""


@pytest.mark.parametrize("role", OUTSIDE)
async def test_what_a_program_does_at_its_start_waits_for_no_outside_login(
    role: str, database: Database, database_urls: DatabaseUrls
) -> None:
    async with login_of(database_urls, role) as attacker:
        await attacker.execute(ADVISORY)
        assert await migrate(database_urls.owner, program=VERSION) == ()
        assert await PostgresCatalogue(database).write(CatalogueFile((declared("house"),), sha256="a" * 64))


@pytest.mark.parametrize("role", OUTSIDE)
async def test_no_outside_login_locks_a_table_or_a_row_of_the_programs_own(
    role: str, database_urls: DatabaseUrls
) -> None:
    async with login_of(database_urls, role) as attacker:
        owner = await asyncpg.connect(database_urls.owner)
        try:
            names = [row["name"] for row in await owner.fetch(TABLES)]
        finally:
            await owner.close()
        assert {"agentapi.migrations", "agentapi.catalogue_files", "agentapi.facts"} <= set(names)
        for name in names:
            for statement in (
                f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE",
                f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE",
                f"SELECT FROM {name} FOR KEY SHARE",  # a name of the catalogue
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with attacker.transaction():
                        await attacker.execute(statement)
