"""A database with at least one row in each table that a backup has, among them values that are easily spoilt."""

import asyncio
import re
from pathlib import Path

import asyncpg

USER, ORG, OTHER = (f"00000000-0000-7000-8000-00000000000{number}" for number in (1, 2, 3))
_IDS = {":user": USER, ":org": ORG, ":other": OTHER}
_ROWS = Path(__file__).with_name("filled.sql")


async def fill(owner_url: str) -> None:
    """Put the rows into a migrated database."""
    rows = await asyncio.to_thread(_ROWS.read_text, encoding="utf-8")
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute("SET row_security = off")
        await connection.execute(re.sub(r":(user|org|other)\b", lambda name: f"'{_IDS[name[0]]}'", rows))
    finally:
        await connection.close()
