"""`agentapi-mcp doctor` as its users run it: it tells what is wrong, mends nothing, and names the line that does."""

import json
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from tests.acceptance.test_processes import environ, run
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey

pytestmark = pytest.mark.acceptance
NAMES = ["program", "settings", "home", "configuration", "database", "redis", "sign-in"]
Checks = dict[str, dict[str, Any]]


async def examine(env: dict[str, str], *words: str) -> tuple[int, Checks]:
    """Run it, and return its exit status and its checks by name."""
    status, out, err = await run(env, "doctor", "--json", *words)
    assert err == "", err
    said = json.loads(out)
    assert said["ok"] is (status == 0)
    for check in said["checks"]:
        assert check["mend"] or check["outcome"] != "fault", check
    return status, {check["name"]: check for check in said["checks"]}


def found(checks: Checks) -> dict[str, str]:
    return {name: check["outcome"] for name, check in checks.items()}


async def test_a_new_user_has_nothing_to_mend_and_is_told_what_is_on_offer(edge_home: Path) -> None:
    status, checks = await examine(environ(edge_home))
    assert status == 0
    assert list(checks)[: len(NAMES)] == NAMES
    known = {"agent ccrouter", "agent droid", "agent guide", "shared server"}
    others = {name: checks.pop(name) for name in checks.keys() - NAMES - known}  # of other tests in this home
    assert {check["outcome"] for check in others.values()} <= {"not_in_use"}
    assert found(checks) == {
        **dict.fromkeys(NAMES, "ok"),
        "redis": "not_in_use",
        "sign-in": "not_in_use",
        "agent ccrouter": "not_in_use",
        "agent droid": "not_in_use",
        "agent guide": "ok",
        "shared server": "not_in_use",
    }
    assert checks["agent droid"]["mend"] == ["export OPENROUTER_API_KEY=..."]
    status, out, _ = await run(environ(edge_home), "doctor")
    assert status == 0
    assert "not in use   agent droid     OPENROUTER_API_KEY is not set\n" in out
    assert out.endswith("Everything works.\n")


async def test_a_key_without_credit_is_a_fault_until_it_is_mended(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        peer.limit_remaining = 0
        status, checks = await examine(environ(edge_home, peer))
        assert (status, checks["agent droid"]["outcome"]) == (1, "fault")
        assert "credit" in checks["agent droid"]["detail"]
        assert "export OPENROUTER_API_KEY=..." in checks["agent droid"]["mend"]
        assert not any("chat" in exchange.path for exchange in peer.exchanges)
        peer.limit_remaining = 5
        status, checks = await examine(environ(edge_home, peer))  # it does not believe what it saw a moment ago
        assert (status, checks["agent droid"]["outcome"]) == (0, "ok")


async def test_asking_costs_and_shows_the_bill_and_leaves_no_session(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        _, before, _ = await run(environ(edge_home, peer), "sessions", "list", "--json", "--limit", "200")
        status, checks = await examine(environ(edge_home, peer), "--ask")
        assert status == 0
        assert checks["answer of guide"]["outcome"] == "ok"
        assert "out, $" in checks["answer of droid"]["detail"]
        _, after, _ = await run(environ(edge_home, peer), "sessions", "list", "--json", "--limit", "200")
        assert json.loads(after) == json.loads(before)


async def test_what_the_operator_declared_is_meant(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "agentapi.toml"
    config.write_text(
        '[agents.mine]\nbackend = "openai"\noptions = { base_url = "http://127.0.0.1:9/v1", api_key = "${MY_KEY}" }\n'
        '[agents.deaf]\nbackend = "openai"\noptions = { base_url = "http://127.0.0.1:9/v1" }\n'
        '[agents.preferred]\nbackend = "droid"\noptions = { command = "no-such-droid" }\n'
        '[agents.preferred.otherwise]\nbackend = "guide"\n'
        '[agents.guide]\nbackend = "guide"\nenabled = false\n',
        encoding="utf-8",
    )
    env = environ(edge_home) | {"AGENTAPI_CONFIG": str(config)}
    status, checks = await examine(env)
    assert status == 1
    assert checks["agent mine"] | {"duration_ms": 0} == {
        "name": "agent mine",
        "outcome": "fault",
        "detail": "MY_KEY is not set",
        "mend": ["export MY_KEY=..."],
        "duration_ms": 0,
    }
    assert checks["agent deaf"]["mend"] == [f'"${{EDITOR:-vi}}" {config}']
    assert checks["agent preferred"]["outcome"] == "warning"
    assert checks["agent guide"]["outcome"] == "not_in_use"
    key = "k-secret-0123456789"
    status, out, _ = await run(env | {"MY_KEY": key}, "doctor")
    assert "agent mine" in out
    assert key not in out


async def test_a_file_that_is_tried_leaves_no_agent_behind(edge_home: Path, tmp_path: Path) -> None:
    config, ghost = tmp_path / "agentapi.toml", f"ghost{os.getpid()}"
    config.write_text(f'[agents.{ghost}]\nbackend = "guide"\n', encoding="utf-8")
    status, checks = await examine(environ(edge_home) | {"AGENTAPI_CONFIG": str(config)})
    assert (status, checks[f"agent {ghost}"]["outcome"]) == (0, "ok")
    assert f"agent {ghost}" not in (await examine(environ(edge_home)))[1]


async def test_a_wrong_configuration_is_told_with_the_line_that_opens_it_there(edge_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "my agents.toml"
    config.write_text('[agents.mine]\nbackend = "openai"\nbakend = "x"\n', encoding="utf-8")
    status, checks = await examine(environ(edge_home) | {"AGENTAPI_CONFIG": str(config)})
    assert (status, found(checks)["configuration"]) == (1, "fault")
    assert checks["configuration"]["mend"] == [f"\"${{EDITOR:-vi}}\" +3 '{config}'"]
    assert found(checks)["database"] == "ok"
    assert checks["agents"]["detail"] == "the configuration must be mended first"


async def test_a_secret_that_the_file_names_and_nobody_set_is_told_with_the_line_that_sets_it(
    edge_home: Path, tmp_path: Path
) -> None:
    config = tmp_path / "agentapi.toml"
    config.write_text(
        '[[issuers]]\nissuer = "https://auth.example.com"\nclient_id = "pages"\nclient_secret = "${PAGES_SECRET}"\n',
        encoding="utf-8",
    )
    status, checks = await examine(environ(edge_home) | {"AGENTAPI_CONFIG": str(config)})
    assert (status, found(checks)["configuration"]) == (1, "fault")
    assert checks["configuration"]["mend"][0] == "export PAGES_SECRET=..."


async def test_a_wrong_setting_stops_the_rest_and_a_misspelt_one_does_not(edge_home: Path) -> None:
    status, checks = await examine(environ(edge_home) | {"AGENTAPI_WAIT_SECONDS": "soon"})
    assert (status, checks["settings"]["mend"]) == (1, ["unset AGENTAPI_WAIT_SECONDS"])
    assert set(found(checks).values()) - {"not_in_use"} == {"ok", "fault", "not_checked"}
    misspelt = environ(edge_home) | {"AGENTAPI_WAIT_SECOND": "5"}
    assert (await run(misspelt, "doctor"))[1].endswith("Everything works, with 1 warning.\n")
    status, checks = await examine(misspelt)
    assert (status, checks["settings"]["outcome"]) == (0, "warning")
    assert checks["settings"]["mend"] == ['export AGENTAPI_WAIT_SECONDS="$AGENTAPI_WAIT_SECOND"']


OPEN = {"AGENTAPI_TRUSTED_PROXIES": "127.0.0.1", "AGENTAPI_ALLOWED_HOSTS": "agents.example.com"}


@pytest.mark.parametrize(
    "given",
    [
        OPEN,
        {"AGENTAPI_ALLOWED_HOSTS": "https://agents.example.com", "AGENTAPI_REQUIRE_TOKEN": "true"},
        {"AGENTAPI_ALLOWED_ORIGINS": "agents.example.com", "AGENTAPI_REQUIRE_TOKEN": "true"},
        {"AGENTAPI_TLS_CERT": "/no/such/file.pem", "AGENTAPI_TLS_KEY": "/no/such/key.pem"},
        {"AGENTAPI_TLS_CERT": "/no/such/file.pem"},
        {"AGENTAPI_RESOURCE_URL": "https://agents.example.com/mcp"},
        {"AGENTAPI_BEARER_TOKEN": "short"},
        {"AGENTAPI_MASTER_KEY": "c2hvcnQ="},
        {"AGENTAPI_MASTER_KEY_FILE": "/no/such/file"},
        {"AGENTAPI_MASTER_KEY_COMMAND": "false"},
        {"AGENTAPI_CONFIG": "/no/such/file.toml"},
        {"AGENTAPI_TOOLSETS": "everything"},
    ],
    ids="+".join,
)
async def test_whatever_serve_refuses_is_a_fault_that_names_a_line(given: dict[str, str], edge_home: Path) -> None:
    env = environ(edge_home) | given
    status, _, err = await run(env, "serve", "--port", "0")
    assert status == 3, err
    status, checks = await examine(env)
    assert (status, "fault" in found(checks).values()) == (1, True)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"AGENTAPI_REQUIRE_TOKEN": "true"}, ()), ({}, ("--require-token",)), ({}, ("--insecure",))],
)
async def test_a_server_that_others_reach_has_nothing_to_mend_once_it_is_said_who_guards_it(
    more: dict[str, str], words: tuple[str, ...], edge_home: Path
) -> None:
    status, checks = await examine(environ(edge_home) | OPEN | more, *words)
    assert (status, found(checks)["sign-in"]) == (0, "not_in_use")
    assert "warning" not in found(checks).values()


@pytest.mark.parametrize("given", ["postgresql://me:secret-0123@127.0.0.1:9/x", "not an address"])
async def test_a_database_that_cannot_be_reached_is_told(edge_home: Path, given: str) -> None:
    env = environ(edge_home) | {"AGENTAPI_DATABASE_URL": given}
    status, checks = await examine(env)
    assert (status, checks["database"]["outcome"]) == (1, "fault")
    assert checks["database"]["mend"] == [
        "export AGENTAPI_DATABASE_URL='postgresql://USER:PASSWORD@HOST:5432/DATABASE'"
    ]
    assert "secret-0123" not in json.dumps(checks)


async def test_a_database_by_url_is_examined_and_not_changed(edge_home: Path) -> None:
    await examine(environ(edge_home))  # the roles of a server belong to who comes first
    postgres = EmbeddedPostgres(edge_home)
    superuser = postgres.ensure().owner_url.replace("agentapi_owner@/agentapi", "postgres@/postgres")
    name = f"doctor_{os.getpid()}"
    admin = await asyncpg.connect(superuser)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        env = environ(edge_home) | {"AGENTAPI_DATABASE_URL": superuser.replace("@/postgres", f"@/{name}")}
        status, checks = await examine(env)
        assert (status, checks["database"]["mend"]) == (1, ["agentapi-mcp migrate"])
        _, out, _ = await run(env, "migrate", "--status")
        assert "not yet" in out
        assert (await run(env, "migrate"))[0] == 0
        status, checks = await examine(env)
        assert (status, checks["database"]["outcome"]) == (0, "warning")
        assert "is a superuser" in checks["database"]["detail"]
        assert checks["database"]["mend"] == ["agentapi-mcp migrate --grant-to LOGIN"]
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()
        postgres.release()


async def test_redis_is_asked_to_write(edge_home: Path, valkey: Valkey) -> None:
    env = environ(edge_home) | {"AGENTAPI_REDIS_URL": valkey.url}
    status, checks = await examine(env)
    assert (status, checks["redis"]["outcome"]) == (0, "ok")
    valkey.stop()
    status, checks = await examine(env)
    assert (status, checks["redis"]["outcome"]) == (1, "fault")
    assert checks["redis"]["mend"] == ["export AGENTAPI_REDIS_URL='redis://:PASSWORD@HOST:6379/0'"]


@pytest.mark.parametrize("command", ["chat", "doctor"])
async def test_a_home_that_no_path_leads_to_is_told(tmp_path: Path, command: str) -> None:
    status, out, err = await run(environ(tmp_path / ("x" * 300)), command, stdin="hello")
    assert status != 0
    assert "Traceback" not in err
    assert "too long" in out + err
    assert "AGENTAPI_HOME" in out + err


async def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("", encoding="utf-8")
    status, checks = await examine(environ(taken))
    assert (status, checks["home"]["outcome"], checks["database"]["outcome"]) == (1, "fault", "not_checked")
