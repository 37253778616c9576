"""Commands on a home of their own, as they are typed."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from tests.support.command_runs import CommandRun, run_command
from tests.support.databases import Seed
from tests.support.embedded import SharedHome
from tests.support.filled import fill


@contextmanager
def empty_home() -> Generator[SharedHome]:
    """Yield a home that is not there yet, in a short directory that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="bk-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        home = SharedHome(Path(path) / "home")
        yield home
        home.remove()


@pytest.fixture
async def home(seed: Seed) -> AsyncGenerator[SharedHome]:
    """Return a home that nobody uses, whose database has rows in every table."""
    with empty_home() as home:
        await seed.copy_to(home.path)
        postgres = EmbeddedPostgres(home.path)
        await fill((await asyncio.to_thread(postgres.ensure)).owner_url)
        await asyncio.to_thread(postgres.release)
        yield home


@pytest.fixture
def other() -> Iterator[SharedHome]:
    """Return a second home, which has nothing yet."""
    with empty_home() as home:
        yield home


def environ(home: SharedHome, **more: str) -> dict[str, str]:
    """Return the environment of the commands of a home."""
    return {
        "PATH": os.defpath,
        "HOME": str(home.path.parent),
        "AGENTAPI_HOME": str(home.path),
        "AGENTAPI_POSTGRES_LINGER_SECONDS": "20",
        **more,
    }


async def done(env: dict[str, str], *words: str, stdin: bytes = b"") -> CommandRun:
    """Run a command that succeeds."""
    ran = await run_command(env, *words, stdin=stdin)
    assert ran.status == 0, ran
    return ran


async def refused(env: dict[str, str], *words: str, stdin: bytes = b"") -> str:
    """Run a command that is refused, and return what it says."""
    ran = await run_command(env, *words, stdin=stdin)
    assert ran.status in {2, 3}, ran
    assert "internal error" not in ran.err
    return ran.err
