"""What a restore says of secrets: whether a master key at hand opens them."""

import base64
import json
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from agentapi_mcp.app.backups import KeysFile, Step, make_backup, open_backup, restore
from agentapi_mcp.auth.master_keys import new_master_key, parse_keys
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.core.accounts.models import account_place
from agentapi_mcp.core.keys.models import key_place
from agentapi_mcp.settings import Settings
from tests.conftest import DatabaseUrls
from tests.support.databases import Template
from tests.support.filled import ORG, OTHER, USER, fill

SEALED = "UPDATE agentapi.user_api_keys SET sealed_key = $1, key_id = 'team' WHERE id = $2"
ACCOUNT = "UPDATE public.mcp_sessions SET oauth_data = $1 WHERE session_id LIKE 'oauth/%'"


async def seal(owner_url: str, key: str) -> None:
    """Seal the keys and the account of a filled database with this master key."""
    await fill(owner_url)
    sealer = AesGcmSealer(parse_keys(key, "the test"))
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute("SET row_security = off")
        mine = sealer.seal("sk-mine", key_place(ORG, USER, USER, "openrouter", None))
        ours = sealer.seal("sk-ours", key_place(ORG, None, OTHER, "openai", None))
        await connection.executemany(SEALED, [(mine, USER), (ours, OTHER)])
        tokens = base64.b64encode(sealer.seal("tokens", account_place(USER, "calendar"))).decode()
        await connection.execute(ACCOUNT, json.dumps({"calendar": {"sealed": tokens, "key_id": "team"}}))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("here", "carried", "lost"),
    [
        ("team:KEY", False, 0),
        ("team:OTHER", False, 3),  # the same name on two machines
        ("other:KEY", False, 3),  # a sealed value names its key
        (None, False, 3),
        ("team:OTHER", True, 0),
    ],
)
async def test_a_secret_is_lost_that_no_master_key_here_opens(
    here: str | None, *, carried: bool, lost: int, own_database: DatabaseUrls, template: Template, tmp_path: Path
) -> None:
    def nobody(_step: Step) -> None: ...

    key = new_master_key()
    await seal(own_database.owner, f"team:{key}")
    file = tmp_path / "b"
    await make_backup(Settings(home=tmp_path, database_url=SecretStr(own_database.owner)), {}, file, nobody)
    given = None if here is None else SecretStr(here.replace("KEY", key).replace("OTHER", new_master_key()))
    async with template.copied() as urls:
        settings = Settings(home=tmp_path, database_url=SecretStr(urls.owner), master_key=given)
        keys = KeysFile(tmp_path / "keys", f"team:{key}") if carried else None
        with open_backup(file) as backup:
            restored = await restore(settings, {}, backup, nobody, keys)
    assert len(restored.secrets) == 3
    assert len(restored.lost) == lost
