"""The page on one's own Postgres, run on a server that never saw the program."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.login_privileges import login_remark
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.schema_state import is_current
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


def commands(address_of_server: str, passwords: Mapping[str, str]) -> str:
    """Return the page's commands, with the addresses of this server and the passwords of the page's SQL."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for line in "".join(blocks).splitlines()]
    for login, password in passwords.items():
        url = address(address_of_server, database="agentapi").replace("://postgres@", f"://{login}:{quote(password)}@")
        lines = [line.replace(f"postgresql://{login}:PASSWORD@db.example:5432/agentapi", f"'{url}'") for line in lines]
    assert "db.example" not in "".join(lines)
    return "\n".join(lines)


async def run_all(script: str, home: Path) -> tuple[int, str, str]:
    """Run the page's commands in a shell that stops at the first failure."""
    program = home / "bin" / "agentapi-mcp"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentapi_mcp "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-e", "-c", script),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": f"{program.parent}:{os.defpath}", "AGENTAPI_HOME": str(home)},
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.acceptance
async def test_the_page_leads_from_a_new_server_to_an_answer(
    seed: Seed, postgres_bin: Path | None, given_url: str | None, tmp_path: Path
) -> None:
    if given_url is not None:
        pytest.skip("needs a new server: yours may have the roles that the migrations make")
    blocks = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    statements = [statement.strip() for statement in "".join(blocks).split(";") if statement.strip()]
    passwords = dict(re.findall(r"CREATE ROLE (\w+) LOGIN .*PASSWORD '(.*)'", "".join(blocks)))
    assert len(passwords) == 2
    async with new_server(seed, postgres_bin) as superuser:
        admin = await asyncpg.connect(superuser)
        try:
            for statement in statements:  # one by one, since CREATE DATABASE runs outside a transaction
                await admin.execute(statement)
            before = {row["rolname"] for row in await admin.fetch(_ROLES)}
            status, out, err = await run_all(commands(superuser, passwords), tmp_path)
            assert status == 0, (out, err)
            assert {row["rolname"] for row in await admin.fetch(_ROLES)} - before == NEW_ROLES
            assert "Granted: the login agentapi_login works for the program." in out
            assert "not yet" not in out
            assert "docs/how-to/redis.md#" in out  # the answer
            # A second database of the server, by a login that needs no more than the first.
            await admin.execute("CREATE DATABASE another OWNER agentapi_owner")
            owner = address(superuser, database="another", login="agentapi_owner")
            assert await migrate(owner, program=VERSION, grant_to="agentapi_login")
            remote = RemoteServer(address(superuser, database="another", login="agentapi_login"))
            async with open_database(remote, PoolOptions()) as database:
                assert await is_current(database, program=VERSION)
                assert await login_remark(database) is None
        finally:
            await admin.close()
