"""What tests of conversations share."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.databases import DatabaseUrls
from tests.support.worlds import World, open_world


@pytest.fixture
async def world(database_urls: DatabaseUrls, tmp_path: Path) -> AsyncGenerator[World]:
    """Open a provider and a database, on which the test opens programs."""
    async with open_world(database_urls, tmp_path) as opened:
        yield opened
