"""The picture of a conversation in README is what the program shows on a terminal."""

import pytest

from tests.support.chat_picture import PICTURE, draw
from tests.support.databases import Seed

pytestmark = pytest.mark.acceptance


async def test_the_picture_is_what_a_terminal_shows(seed: Seed) -> None:
    async with seed.started("picture-") as server:
        drawn = await draw(server.home)
    assert drawn == PICTURE.read_text(encoding="utf-8"), "`make picture` draws it anew"
