"""A second database of a server, whose owner may neither make the program's roles nor grant them."""

import re
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from itertools import chain, combinations

import asyncpg
import pytest

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.schema_state import is_current
from tests.support.supabase import Project, address, make_login

ROLES = ("agentapi_system", "agentapi_writer", "authenticated")
SUBSETS = list(chain.from_iterable(combinations(ROLES, count) for count in range(len(ROLES) + 1)))
SHOP, SHOP_OWNER, SHOP_LOGIN = "agentapi_shop", "agentapi_shop_owner", "agentapi_shop_login"


@asynccontextmanager
async def shop_of(deployed: Project, granted: Collection[str]) -> AsyncGenerator[Project]:
    """Make a second database, and a login for the program with these of its roles; the first one is migrated."""
    await migrate(deployed.owner, program=VERSION)
    admin = await asyncpg.connect(deployed.admin)
    try:
        await make_login(admin, SHOP_OWNER, "INHERIT NOCREATEROLE")
        await make_login(admin, SHOP_LOGIN, "NOINHERIT")
        await admin.execute(f"CREATE DATABASE {SHOP} OWNER {SHOP_OWNER}")
        for role in granted:
            await admin.execute(f"GRANT {role} TO {SHOP_LOGIN}")
        yield Project(
            admin=deployed.admin,
            owner=address(deployed.admin, database=SHOP, login=SHOP_OWNER),
            app=address(deployed.admin, database=SHOP, login=SHOP_LOGIN),
        )
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {SHOP} WITH (FORCE)")
        await admin.execute(f"DROP ROLE IF EXISTS {SHOP_OWNER}, {SHOP_LOGIN}")
        await admin.close()


async def assert_works(shop: Project) -> None:
    """Expect a database that the program's login can use, and not own."""
    async with open_database(RemoteServer(shop.app), PoolOptions()) as database:
        assert await is_current(database, program=VERSION)
        assert await login_remark(database) is None


async def test_a_login_that_has_the_roles_needs_no_grant_of_them(deployed: Project) -> None:
    async with shop_of(deployed, ROLES) as shop:
        assert await migrate(shop.owner, program=VERSION, grant_to=SHOP_LOGIN)
        assert await migrate(shop.owner, program=VERSION, grant_to=SHOP_LOGIN) == ()
        await assert_works(shop)


@pytest.mark.parametrize("granted", SUBSETS[:-1], ids="+".join)
@pytest.mark.parametrize("migrated", [False, True])
async def test_the_roles_that_the_login_lacks_are_named_and_no_others(
    granted: tuple[str, ...], *, migrated: bool, deployed: Project
) -> None:
    async with shop_of(deployed, granted) as shop:
        if migrated:
            await migrate(shop.owner, program=VERSION)
        with pytest.raises(StoreMismatchError) as refused:
            await migrate(shop.owner, program=VERSION, grant_to=SHOP_LOGIN)
        statements = [part.partition(" run ")[2] for part in re.split("; |\n", str(refused.value))]
        named = {role for role in ROLES for statement in statements if role in statement}
        assert named == set(ROLES) - set(granted)
        # What it names is all that an administrator has to run.
        await shop.run("; ".join(statement.removesuffix(". Nothing was changed.") for statement in statements))
        await migrate(shop.owner, program=VERSION, grant_to=SHOP_LOGIN)
        await assert_works(shop)


async def test_a_role_that_comes_by_way_of_another_is_granted_by_itself(deployed: Project) -> None:
    async with shop_of(deployed, ("authenticated", "agentapi_writer")) as shop:
        await shop.run(
            f"CREATE ROLE agentapi_shop_group; GRANT agentapi_system TO agentapi_shop_group; "
            f"GRANT agentapi_shop_group TO {SHOP_LOGIN}"
        )
        try:
            with pytest.raises(StoreMismatchError, match="may not grant the role agentapi_system"):
                await migrate(shop.owner, program=VERSION, grant_to=SHOP_LOGIN)
        finally:
            await shop.run("DROP ROLE agentapi_shop_group")


async def test_a_membership_without_the_right_to_take_the_role_is_not_enough(deployed: Project) -> None:
    async with shop_of(deployed, ROLES) as shop:
        if int(str(await shop.value("SELECT current_setting('server_version_num')"))) < 160000:
            pytest.skip("Postgres 15 has no such memberships")
        await shop.run(f"GRANT agentapi_writer TO {SHOP_LOGIN} WITH SET FALSE")
        with pytest.raises(StoreMismatchError, match="may not grant the role agentapi_writer"):
            await migrate(shop.owner, program=VERSION, grant_to=SHOP_LOGIN)
