"""Settings of organisations in Postgres, which another program may have written."""

import json

from agentapi_mcp.core.catalogue.policy import read_settings
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.organizations import PostgresOrganizations
from tests.conftest import DatabaseUrls
from tests.support.members import new_member
from tests.support.suspensions import run_as_owner


async def test_settings_that_are_too_large_to_read_allow_nothing(
    database: Database, database_urls: DatabaseUrls
) -> None:
    ann = await new_member(database)
    for others, allowed in (({"theme": 30_000 * [1]}, ("droid",)), ({"allowed_models": 30_000 * ["m"]}, ())):
        settings = json.dumps({"allowed_agents": ["droid"], **others})
        await run_as_owner(
            database_urls.owner, "UPDATE public.organizations SET settings = $1 WHERE id = $2", settings, ann.org_id
        )
        assert read_settings(await PostgresOrganizations(database).settings(ann)).allowed_agents == allowed
