"""The doctor changes nothing: no row, no key in Redis, no file."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg
import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.principal_factory import local_owner
from agentapi_mcp.core.diagnosis.models import CheckOutcome
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from tests.conftest import DatabaseUrls
from tests.core.diagnosis.test_doctor import examine_this, settings_on
from tests.support.dumps import dump
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey

FILE = """
[agents.ghost]
backend = "guide"

[agents.broken]
backend = "openai"
options = { base_url = "http://127.0.0.1:9/v1" }

[agents.droid]
backend = "guide"
description = "changed"
"""
_FORGET = """
DELETE FROM agentapi.migrations WHERE id = (SELECT max(id) FROM agentapi.migrations)
RETURNING id, sha256, needs, applied_at
"""
_REMEMBER = "INSERT INTO agentapi.migrations (id, sha256, needs, applied_at) VALUES ($1, $2, $3, $4)"


async def everything(urls: DatabaseUrls, valkey: Valkey, home: Path) -> Mapping[str, object]:
    """Tell all rows of all tables, all keys, and all files."""
    return {**await dump(urls.owner), "keys": valkey.keys(), "files": files_in(home)}


def files_in(place: Path) -> dict[str, int]:
    """Tell all files below a directory, and when each was changed."""
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*")}


@pytest.mark.parametrize("was_started", [True, False])
async def test_no_row_no_key_and_no_file_is_changed(
    database_urls: DatabaseUrls,
    valkey: Valkey,
    tmp_path: Path,
    was_started: bool,  # noqa: FBT001  # a parameter
) -> None:
    settings = settings_on(database_urls.app, tmp_path, redis_url=valkey.url)
    async with OpenAIPeer() as peer:
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        if was_started:
            new = await everything(database_urls, valkey, tmp_path)
            async with open_app(settings, environ) as app:
                services = await app.services_provider.services()
                await services.health.report(services.principal)
            written = await everything(database_urls, valkey, tmp_path)
            changed = {name for name, value in written.items() if value != new[name]}
            assert changed >= {
                "rows of public.agents",
                "rows of public.agent_health",
                "rows of public.profiles",
                "keys",
            }
        (tmp_path / "agentapi.toml").write_text(FILE, encoding="utf-8")
        before = await everything(database_urls, valkey, tmp_path)
        checks = await examine_this(settings, environ)
        assert await everything(database_urls, valkey, tmp_path) == before
    # It looked as closely as the program would have.
    assert checks["redis"].outcome is CheckOutcome.OK
    assert checks["agent ghost"].outcome is CheckOutcome.OK
    assert checks["agent broken"].outcome is CheckOutcome.FAULT
    assert "by guide" in checks["agent droid"].detail


@pytest.fixture
def new_place() -> Iterator[Path]:
    """Return an empty directory that Postgres could enter as another account, where root runs the tests."""
    with tempfile.TemporaryDirectory(prefix="new-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        yield Path(path)


async def test_a_machine_that_never_ran_it_is_told_what_the_first_start_makes(new_place: Path) -> None:
    home = new_place / "home"
    checks = await examine_this(Settings(home=home))
    assert not home.exists()
    assert checks["database"].outcome is CheckOutcome.OK
    assert f"the first start makes it in {home}" in checks["database"].detail
    assert checks["agent guide"].outcome is CheckOutcome.OK


async def test_a_first_start_that_would_fail_is_told_before_it(new_place: Path) -> None:
    checks = await examine_this(Settings(home=new_place / "home", postgres_bindir=new_place))
    assert checks["database"].outcome is CheckOutcome.FAULT
    assert "AGENTAPI_POSTGRES_BINDIR" in checks["database"].detail
    assert files_in(new_place) == {}


async def test_an_embedded_database_of_an_older_version_is_left_as_it_is(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "agentapi.toml"
    config.write_text(FILE, encoding="utf-8")
    settings = Settings(home=edge_home, config=config, postgres_linger_seconds=20, shutdown_grace_seconds=0)
    url = f"postgresql://agentapi_owner@/agentapi?host={edge_home}/pg18/socket"
    await examine_this(settings)  # it starts the server
    owner = await asyncpg.connect(url)
    applied = await owner.fetchrow(_FORGET)
    assert applied is not None
    try:
        before = await dump(url)
        checks = await examine_this(settings)
        assert await dump(url) == before
    finally:
        await owner.execute(_REMEMBER, *applied)
        await owner.close()
    assert "the next start brings its tables to this version" in checks["database"].detail
    assert checks["agent ghost"].outcome is CheckOutcome.OK


async def test_the_server_itself_refuses_a_change(database_urls: DatabaseUrls) -> None:
    somebody = local_owner(UserId(new_id()), OrgId(new_id()))
    async with open_database(RemoteServer(database_urls.app), PoolOptions(read_only=True)) as database:
        for transaction in (database.as_system("a test"), database.as_writer(somebody)):
            with pytest.raises(StoreError) as refused:
                async with transaction as connection:
                    await connection.execute("DELETE FROM agentapi.turns")
            assert isinstance(refused.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
        with pytest.raises(AssertionError):
            await database.call(somebody, "SELECT 1")
