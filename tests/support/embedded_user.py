"""A program that uses the embedded Postgres and obeys its stdin: one JSON list a line in, one JSON value out."""

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

import asyncpg

from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres


async def query(url: str, sql: str) -> object:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def ask(database: EmbeddedPostgres, login: str, sql: str) -> object:
    """Run one statement on a server that is made sure of."""
    urls = database.ensure()
    return asyncio.run(query(urls.owner_url if login == "owner" else urls.app_url, sql))


def obey(database: EmbeddedPostgres, words: list[str]) -> object:
    """Do what one line says; after a refused connection once more, as the pool does."""
    try:
        if words[0] == "release":
            return database.release()
        if words[0] == "ensure":
            urls = database.ensure()
            return {"owner_url": urls.owner_url, "app_url": urls.app_url}
        try:
            return ask(database, *words)
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
            return ask(database, *words)
    except StoreError as exc:
        return {"error": type(exc).__name__, "message": str(exc)}


def main(home: str, linger: str, bindir: str) -> None:
    """Obey until stdin ends."""
    database = EmbeddedPostgres(Path(home), timedelta(seconds=float(linger)), Path(bindir) if bindir else None)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(obey(database, json.loads(line))) + "\n")
        sys.stdout.flush()
    database.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
