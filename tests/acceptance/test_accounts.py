"""An account of one's own, connected at the terminal: by an address for the browser, and a way back to the command."""

import asyncio
import base64
import json
import subprocess
from pathlib import Path
from secrets import token_bytes

import httpx2
import pytest

from tests.acceptance.test_processes import COMMAND, environ, run
from tests.support.peers.account_provider import AccountProviderPeer, described

pytestmark = pytest.mark.acceptance


async def connect(env: dict[str, str], *words: str) -> tuple[int, str]:
    """Run the command, and do at the provider what the person does."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "accounts", "connect", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with httpx2.AsyncClient(timeout=25, follow_redirects=True) as http:
        assert (await http.get(url)).status_code == 200
    _, err = await process.communicate()
    return process.returncode or 0, err.decode()


async def test_an_account_is_connected_listed_and_disconnected(edge_home: Path, tmp_path: Path) -> None:
    async with AccountProviderPeer() as peer:
        config = tmp_path / "agentapi.toml"
        name = f"v{token_bytes(5).hex()}"
        config.write_text(described(peer, name), encoding="utf-8")
        key = base64.b64encode(token_bytes(32)).decode()
        env = environ(edge_home) | {"AGENTAPI_MASTER_KEY": key, "AGENTAPI_CONFIG": str(config)}
        peer.lies.denies = True
        status, err = await connect(env, name)
        assert (status, "access was denied there" in err) == (2, True)
        peer.lies.denies = False
        status, err = await connect(env, name)
        assert (status, f"Connected your account at {name}" in err) == (0, True), err
        status, out, err = await run(env, "accounts", "list", "--json")
        (listed,) = [each for each in json.loads(out)["accounts"] if each["provider"] == name]
        assert (status, listed["state"], listed["scopes"]) == (0, "connected", ["models", "chat"])
        status, out, err = await run(env, "accounts", "disconnect", name)
        assert (status, "Removed your account" in err, f"Its tokens are revoked at {name}" in err) == (0, True, True), (
            err
        )
        assert any(exchange.path == "/revoke" for exchange in peer.exchanges)
        status, out, err = await run(env, "accounts", "disconnect", name)
        assert (status, "You have no account" in err) == (2, True)
        assert "access-" not in out + err
