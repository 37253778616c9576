"""Logins of a database that are members of one role and nothing else, as other programs may have them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from tests.support.databases import DatabaseUrls


@asynccontextmanager
async def login_of(urls: DatabaseUrls, role: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """Connect with a login that is a member of this role, and that is dropped at the end."""
    name, password = f"login_{uuid4().hex[:12]}", uuid4().hex
    parts = urlsplit(urls.owner)
    netloc = f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"
    owner = await asyncpg.connect(urls.owner)
    try:
        await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE {role}")
        try:
            connection = await asyncpg.connect(urlunsplit(parts._replace(netloc=netloc)))
            try:
                yield connection
            finally:
                await connection.close()
        finally:
            await owner.execute(f"DROP ROLE {name}")
    finally:
        await owner.close()
