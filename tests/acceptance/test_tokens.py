"""Personal tokens as people make them by command, and programs use them over HTTP."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx2
import pytest

from agentapi_mcp.app.startup import open_app
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.base.json_values import as_list, as_object
from agentapi_mcp.core.access.models import Issuer, Newcomers, TokenClaims
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from tests.acceptance.test_processes import environ, run
from tests.acceptance.test_serve import serving
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.connect import call, connect_with, fields_of, text_of

pytestmark = pytest.mark.acceptance
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sign-in.md"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


async def status_of(base: str, token: str | None) -> int:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(timeout=20) as http:
        return (await http.post(f"{base}/mcp", json=PING, headers=headers)).status_code


@pytest.mark.parametrize("link", ["http-2025", "http-2026"])
async def test_a_token_is_made_used_and_revoked(link: str, edge_home: Path) -> None:
    env, name = environ(edge_home) | {"AGENTAPI_LOG_LEVEL": "debug"}, f"ci {new_id().hex}"
    async with serving(env, "--host", "0.0.0.0", "--require-token") as server:  # noqa: S104  # it asks for tokens
        base = server.base.replace("0.0.0.0", "127.0.0.1")  # noqa: S104  # the same
        status, out, err = await run(env, "tokens", "create", name, "--scope", "read", "--scope", "chat")
        assert status == 0, err
        token = out.strip()
        assert re.fullmatch(r"agentapi_pat_[0-9A-Za-z]{49}", token)
        assert token not in err
        assert "may: read, chat" in err
        assert [await status_of(base, given) for given in (None, "something", token)] == [401, 401, 200]
        async with connect_with(base, token, link) as client:
            turn = fields_of(await call(client, "chat", agent="guide", message="what is a turn?"))
            assert turn["status"] == "completed"
        row = next(line for line in (await run(env, "tokens", "list"))[1].splitlines() if line.startswith(name))
        assert row.split("\t")[1:3] == [f"…{token[-4:]}", "read chat"]
        assert row.split("\t")[4] != "never"
        assert token not in row
        status, _, err = await run(env, "tokens", "revoke", name)
        assert status == 0, err
        assert await status_of(base, token) == 401
        assert name not in (await run(env, "tokens", "list"))[1]
        assert await server.stop() == 0
        assert token not in "".join(server.stderr)
        assert token[: len(token) - 6] not in "".join(server.stderr)


async def test_a_token_shows_which_toolsets_its_clients_see(edge_home: Path) -> None:
    env, name = environ(edge_home), new_id().hex
    chosen = ("--toolset", "core", "--toolset", "admin")
    status, out, err = await run(env, "tokens", "create", name, *chosen, "--json")
    assert (status, json.loads(out)["toolsets"]) == (0, ["admin", "core"]), err
    assert (await run(env, "tokens", "create", f"{name} usual"))[0] == 0
    rows = (await run(env, "tokens", "list"))[1].splitlines()
    usual, row = (line.split("\t")[5] for line in rows if line.startswith(name))
    assert (usual, row) == ("the server's", "admin core")
    status, _, err = await run(env, "tokens", "create", "x", "--toolset", "nothing")
    assert (status, "'core', 'admin', 'preferences'" in err) == (2, True)
    said = "may call no tool of the toolset admin, which needs --scope admin"
    status, _, err = await run(env, "tokens", "create", f"{name} idle", *chosen)
    assert (status, said in err, "toolset core" in err) == (0, True, False), err
    scopes = ("--scope", "read", "--scope", "admin")
    status, _, err = await run(env, "tokens", "create", f"{name} able", *chosen, *scopes)
    assert (status, "may call no tool" in err) == (0, False), err


async def test_a_token_that_reads_only_makes_no_more_of_an_open_server(edge_home: Path) -> None:
    env = environ(edge_home)
    status, out, err = await run(
        env, "tokens", "create", new_id().hex, "--scope", "read", "--expires-in", "1h", "--json"
    )
    assert status == 0, err
    made = json.loads(out)
    assert datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"]) == timedelta(hours=1)
    async with serving(env) as server:
        async with connect_with(server.base, made["token"], "sse-2025") as client:
            refused = await call(client, "chat", agent="guide", message="hello")
            assert "lacks the scope 'chat'" in text_of(refused)
        assert await status_of(server.base, None) == 200
        assert (await run(env, "tokens", "revoke", made["id"]))[0] == 0
        assert await status_of(server.base, made["token"]) == 401


async def test_the_page_adds_two_people_to_a_new_database(edge_home: Path, database_urls: DatabaseUrls) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Personal tokens")[2].partition("\n## ")[0]
    (statement,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    (command, user_on_page, org_on_page) = re.findall(r"(tokens create bo --user (\S+) --org (\S+))", section)[0]
    env = environ(edge_home) | {"AGENTAPI_DATABASE_URL": database_urls.app}
    org_id = (await run(env, "organization", "create", "Acme"))[1].strip()
    owner = await asyncpg.connect(database_urls.owner)
    users, tokens = list[str](), list[str]()
    try:
        for name in ("bo", "cy"):
            sql = statement.replace(org_on_page, org_id).replace("bo@", f"{name}@")
            users.append(str(await owner.fetchval(sql)))
            words = command.replace(org_on_page, org_id).replace(user_on_page, users[-1]).replace(" bo ", f" {name} ")
            status, out, err = await run(env, *words.split())
            assert status == 0, err
            tokens.append(out.strip())
    finally:
        await owner.close()
    reached = {"AGENTAPI_REQUIRE_TOKEN": "true", "AGENTAPI_ALLOWED_HOSTS": "agents.example.com"}
    async with serving(env | reached) as server:
        assert await status_of(server.base, None) == 401
        for mine, token in enumerate(tokens):
            async with connect_with(server.base, token, "http-2026") as client:
                turn = fields_of(await call(client, "chat", agent="guide", message="what is a turn?"))
                assert turn["status"] == "completed"
                listed = fields_of(await call(client, "list_sessions"))
                found = [as_object(one)["session_id"] for one in as_list(listed["sessions"])]
                assert found == [turn["session_id"]], users[mine]
    shown = (await run(env, "members", "list", "--org", org_id))[1]
    assert all(user in shown for user in users)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("create", " "), 2, "NAME is blank"),
        (("create", "x", "--expires-in", "367d"), 2, "--expires-in must be between a minute and 366 days"),
        (("create", "x", "--expires-in", "0d"), 2, "--expires-in must be between a minute and 366 days"),
        (("create", "x", "--expires-in", "99999w"), 2, "--expires-in must be between a minute and 366 days"),
        (("create", "x", "--expires-in", "soon"), 2, "as in 30m, 12h, 90d or 8w"),
        (("create", "x", "--scope", "root"), 2, "root"),
        (("revoke", "no-such-token"), 2, "`agentapi-mcp tokens list` shows"),
        (("list", "--user", str(new_id())), 3, "--org beside --user"),
        (("list", "--user", str(new_id()), "--org", str(new_id())), 3, "is no member of the organisation"),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_words(
    words: tuple[str, ...], status: int, says: str, edge_home: Path
) -> None:
    ended, out, err = await run(environ(edge_home), "tokens", *words)
    assert (ended, out) == (status, "")
    assert says in err
    assert "Traceback" not in err


async def test_an_operator_makes_tokens_for_somebody_else(edge_home: Path, database_urls: DatabaseUrls) -> None:
    env = environ(edge_home) | {"DATABASE_URL": database_urls.app}
    async with open_database(RemoteServer(database_urls.app), PoolOptions()) as database:
        issuer = Issuer(issuer="https://a.example", newcomers=Newcomers.PERSONAL)
        claims = TokenClaims(issuer=issuer, subject=new_id().hex, scopes=frozenset(), expires_at=datetime.now(UTC))
        ann = await SignIns(PostgresIdentities(database), audit_log(database)).principal_of(claims)
    named = ("--user", str(ann.user_id), "--org", str(ann.org_id))
    status, out, err = await run(env, "tokens", "create", "hers", *named)
    assert status == 0, err
    assert "hers" not in (await run(env, "tokens", "list"))[1]
    assert "hers" in (await run(env, "tokens", "list", *named))[1]
    settings = Settings(home=edge_home, database_url=database_urls.app)  # type: ignore[arg-type]  # a secret, from a text
    async with open_app(settings, {}) as app:
        principal = await (await app.services_provider.services()).personal_tokens.principal_of(out.strip())
    assert (principal.user_id, principal.org_id) == (ann.user_id, ann.org_id)
    assert (await run(env, "tokens", "revoke", "hers"))[0] == 2
    assert (await run(env, "tokens", "revoke", "hers", *named))[0] == 0
