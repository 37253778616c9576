"""Real clients with a fake model, as `make try-clients` tries them, but faster: long turns, Stop, restarts."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from clients.__main__ import try_client
from clients.place import Place, open_place
from clients.plain import PLAIN
from clients.programs import PROMPTED
from clients.provider import open_provider
from clients.trials import RUNS_ON

pytestmark = pytest.mark.acceptance
SCALE = 0.05
# What they list, answer and read is in test_npm_clients.py and test_fastmcp.py.
OF_PLAIN = ["90 s turn", "stop", "restart between", "restart during"]


@pytest.fixture(scope="module")
async def place() -> AsyncGenerator[Place]:
    """Make a home with a server and an agent, once: both take longer to start than any of the trials."""
    async with open_provider(SCALE) as provider, open_place(provider, SCALE) as made:
        yield made


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize(
    ("name", "trials"),
    [
        ("codex", ["first turn", "declares", "chat", *OF_PLAIN, "resource"]),
        ("typescript-v1", OF_PLAIN),
        ("typescript-v2", OF_PLAIN),
        ("fastmcp", OF_PLAIN),
        ("inspector-2", OF_PLAIN),
    ],
)
async def test_a_client_loses_nothing(name: str, trials: Sequence[str], transport: str, place: Place) -> None:
    client = PROMPTED.get(name) or PLAIN[name]
    await asyncio.to_thread(client.version)  # installs it
    # The Inspector dies of Ctrl-C without a word, and over stdio its turn then runs on, as that of a client that quits.
    is_silent = (name, transport) == ("inspector-2", "stdio")
    chosen = [trial for trial in trials if not (is_silent and trial == "stop")]
    tried = await try_client(client, place, transport, chosen)
    assert not tried.has_failed, tried.cells
    assert set(tried.cells) == set(chosen)
    assert RUNS_ON not in tried.cells.values()
