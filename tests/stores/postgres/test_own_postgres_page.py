"""The SQL of the page on one's own Postgres, run on a server that never saw the program."""

import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.migrate import is_current, migrate
from tests.support.clusters import open_cluster
from tests.support.databases import Seed, drop_seed
from tests.support.supabase import address

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "use-your-own-postgres.md"
NEW_ROLES = {"agentapi_system", "agentapi_writer", "anon", "authenticated", "service_role"}
_ROLES = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND NOT rolsuper"


@asynccontextmanager
async def new_server(seed: Seed, postgres_bin: Path | None) -> AsyncGenerator[str]:
    """Run a server without the program's roles, and yield its address for a superuser."""
    if postgres_bin is not None:
        with tempfile.TemporaryDirectory(prefix="own-", dir="/tmp", ignore_cleanup_errors=True) as path:
            await asyncio.to_thread(Path(path).chmod, 0o711)
            with open_cluster(postgres_bin, Path(path) / "server") as cluster:
                yield cluster.superuser_url
        return
    async with seed.started("own-") as server:
        await drop_seed(server)
        yield server.superuser


async def test_the_page_leads_from_a_new_server_to_a_login_that_works(
    seed: Seed, postgres_bin: Path | None, given_url: str | None
) -> None:
    if given_url is not None:
        pytest.skip("needs a new server: yours may have the roles that the migrations make")
    blocks = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    statements = [statement.strip() for statement in "".join(blocks).split(";") if statement.strip()]
    async with new_server(seed, postgres_bin) as superuser:
        admin = await asyncpg.connect(superuser)
        try:
            for statement in statements:  # one by one, since CREATE DATABASE runs outside a transaction
                await admin.execute(statement)
            before = {row["rolname"] for row in await admin.fetch(_ROLES)}
            await migrate(
                address(superuser, database="agentapi", login="agentapi_owner"),
                program=VERSION,
                grant_to="agentapi_login",
            )
            assert {row["rolname"] for row in await admin.fetch(_ROLES)} - before == NEW_ROLES
            remote = RemoteServer(address(superuser, database="agentapi", login="agentapi_login"))
            async with open_database(remote, PoolOptions()) as database:
                assert await is_current(database, program=VERSION)
                assert await login_remark(database) is None
        finally:
            await admin.close()
