"""The doctor: what it finds, in which order, what it leaves unasked, and which line it advises."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typing_extensions import override

from agentapi_mcp.app.doctor import ThisInstallation
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError, StoreMismatchError, StoreUnavailableError
from agentapi_mcp.core.diagnosis.doctor import CheckTimeouts, Doctor
from agentapi_mcp.core.diagnosis.models import Check, CheckOutcome, DatabaseFacts
from agentapi_mcp.core.diagnosis.ports import Installation
from agentapi_mcp.settings import Settings
from agentapi_mcp.stores.postgres.faults import POOLER
from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from tests.conftest import DatabaseUrls
from tests.support.installations import WELL, FakeInstallation
from tests.support.peers.account_provider import AccountProviderPeer
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey

HOME_LINE = "export AGENTAPI_HOME=/another/directory"
DATABASE_LINE = "export AGENTAPI_DATABASE_URL='postgresql://USER:PASSWORD@HOST:5432/DATABASE'"
REDIS_LINE = "export AGENTAPI_REDIS_URL='redis://:PASSWORD@HOST:6379/0'"
NOT_IN_USE = CheckOutcome.NOT_IN_USE
PARTS = ["program", "settings", "home", "configuration", "database", "redis", "sign-in"]


class Refusing(HttpPeer):
    """A provider that knows no key."""

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        await answer.json(401, {"error": {"message": "No such key."}})


async def examine(
    installation: Installation, timeouts: CheckTimeouts | None = None, *, ask: bool = False
) -> dict[str, Check]:
    checks: list[Check] = []
    await Doctor(installation, SystemClock(), timeouts).examine(checks.append, ask=ask)
    return {check.name: check for check in checks}


async def examine_this(
    settings: Settings, environ: Mapping[str, str] | None = None, *, ask: bool = False
) -> dict[str, Check]:
    """Examine this program as it would be with these settings."""
    return await examine(ThisInstallation(environ or {}, SystemClock(), lambda: settings), ask=ask)


def settings_on(url: str, home: Path, **more: object) -> Settings:
    return Settings(database_url=url, home=home, shutdown_grace_seconds=0, **more)  # type: ignore[arg-type]  # pydantic reads them


async def test_everything_works_and_the_agents_are_asked_last(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    checks = await examine_this(settings_on(database_urls.app, tmp_path))
    assert list(checks)[: len(PARTS)] == PARTS
    found = {name: checks[name].outcome for name in PARTS}
    assert found == {
        **dict.fromkeys(PARTS, CheckOutcome.OK),
        **dict.fromkeys(("redis", "sign-in"), NOT_IN_USE),
    }
    assert "by URL, answers in" in checks["database"].detail
    assert checks["agent guide"].outcome is CheckOutcome.OK
    assert checks["agent droid"].outcome is CheckOutcome.NOT_IN_USE
    assert checks["agent droid"].advice == ("export OPENROUTER_API_KEY=...",)
    assert not any(name.startswith("answer") for name in checks)
    assert checks["database"].duration is not None


async def test_a_question_is_asked_only_on_request_and_leaves_no_session(edge_home: Path) -> None:
    async with OpenAIPeer() as peer:
        environ = {"OPENROUTER_API_KEY": "sk-or-v1-test", "AGENTAPI_OPENROUTER_BASE_URL": peer.openrouter_url}
        settings = Settings(home=edge_home, postgres_linger_seconds=20, shutdown_grace_seconds=0)
        await examine_this(settings, environ)
        assert not any("chat" in exchange.path for exchange in peer.exchanges)
        checks = await examine_this(settings, environ, ask=True)
        assert any("chat" in exchange.path for exchange in peer.exchanges)
    assert checks["answer of droid"].outcome is CheckOutcome.OK
    assert "out, $" in checks["answer of droid"].detail


@pytest.mark.parametrize(
    ("base_url", "more", "said", "line"),
    [
        ("http://127.0.0.1:9/v1", {}, "refused the connection", '"${EDITOR:-vi}" %s'),
        ("${MY_URL}", {"MY_URL": "http://127.0.0.1:9/v1"}, "refused the connection", "export MY_URL=..."),
        ("http://x.example/v1", {"HTTP_PROXY": "http://127.0.0.1:9"}, "Check HTTP_PROXY", "export HTTP_PROXY=..."),
        ("http://x.example/v1", {"http_proxy": "http://127.0.0.1:9"}, "Check http_proxy", "export http_proxy=..."),
    ],
)
async def test_a_key_is_not_blamed_for_a_provider_that_is_not_reached(
    base_url: str, more: dict[str, str], said: str, line: str, database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    config = tmp_path / "agentapi.toml"
    options = f'options = {{ base_url = "{base_url}", api_key = "${{MY_KEY}}" }}'
    config.write_text(f'[agents.mine]\nbackend = "openai"\n{options}\n', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in more.items():
            patch.setenv(name, value)
        checks = await examine_this(settings_on(database_urls.app, tmp_path), {"MY_KEY": "k-0123456789", **more})
    mine = checks["agent mine"]
    assert (mine.outcome, mine.advice) == (CheckOutcome.FAULT, (line.replace("%s", str(config)),))
    assert said in mine.detail


async def test_a_key_is_blamed_where_the_provider_refuses_it(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    async with Refusing() as peer:
        environ = {"OPENROUTER_API_KEY": "sk-wrong", "AGENTAPI_OPENROUTER_BASE_URL": peer.origin}
        checks = await examine_this(settings_on(database_urls.app, tmp_path), environ)
        droid = checks["agent droid"]
        assert (droid.outcome, "set another one in OPENROUTER_API_KEY" in droid.detail) == (CheckOutcome.FAULT, True)
        assert "export OPENROUTER_API_KEY=..." in droid.advice
    gone = (await examine_this(settings_on(database_urls.app, tmp_path), environ))["agent droid"]
    assert gone.advice == ("export AGENTAPI_OPENROUTER_BASE_URL=...",)


async def test_an_agent_that_the_operator_declared_is_meant(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    config = tmp_path / "agentapi.toml"
    config.write_text(
        '[agents.mine]\nbackend = "openai"\n[agents.mine.options]\nbase_url = "http://127.0.0.1:9/v1"\n'
        'api_key = "${MY_KEY}"\n',
        encoding="utf-8",
    )
    checks = await examine_this(settings_on(database_urls.app, tmp_path))
    mine = checks["agent mine"]
    assert (mine.outcome, mine.detail, mine.advice) == (CheckOutcome.FAULT, "MY_KEY is not set", ("export MY_KEY=...",))
    assert str(config) in checks["configuration"].detail


async def test_wrong_settings_leave_the_rest_unchecked() -> None:
    def refuse() -> Settings:
        raise ConfigurationError("A setting is wrong: AGENTAPI_WAIT_SECONDS must be a number; OTHER is not set.")

    environ = {"AGENTAPI_WAIT_SECONDS": "soon"}
    checks = await examine(ThisInstallation(environ, SystemClock(), refuse))
    assert checks["settings"].advice == ("unset AGENTAPI_WAIT_SECONDS",)
    assert {name: check.outcome for name, check in checks.items()} == {
        "program": CheckOutcome.OK,
        "settings": CheckOutcome.FAULT,
        **dict.fromkeys(["home", "configuration", "database", "redis", "sign-in", "agents"], CheckOutcome.NOT_CHECKED),
    }


async def test_a_misspelt_setting_is_told_with_the_one_that_is_meant(tmp_path: Path) -> None:
    environ = {"AGENTAPI_HOMES": "x", "AGENTAPI_ZZZZZZ": "x", "AGENTAPI_HOME": "x", "DATABASE_URL": "x"}
    taken = tmp_path / "taken"
    taken.write_text("", encoding="utf-8")
    checks = await examine(FakeInstallation(taken, environ=environ))
    assert checks["settings"].outcome is CheckOutcome.WARNING
    assert checks["settings"].advice == ('export AGENTAPI_HOME="$AGENTAPI_HOMES"', "unset AGENTAPI_ZZZZZZ")


async def test_a_home_that_is_a_file_is_a_fault_and_so_is_the_database_in_it(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("", encoding="utf-8")
    installation = FakeInstallation(taken, is_remote=False)
    checks = await examine(installation)
    assert (checks["home"].outcome, checks["home"].advice) == (CheckOutcome.FAULT, (HOME_LINE,))
    assert checks["database"].outcome is CheckOutcome.NOT_CHECKED
    assert checks["agents"].detail == "the home must be mended first"
    assert installation.asked == ["redis"]
    elsewhere = FakeInstallation(taken)
    assert (await examine(elsewhere))["database"].outcome is CheckOutcome.OK
    assert elsewhere.asked == ["database", "redis"]


async def test_a_wrong_file_is_opened_at_its_line(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    config = tmp_path / "my agents.toml"
    config.write_text('[agents.mine]\nbackend = "openai"\nbakend = "x"\n', encoding="utf-8")
    checks = await examine_this(settings_on(database_urls.app, tmp_path, config=config))
    assert checks["configuration"].advice == (f"\"${{EDITOR:-vi}}\" +3 '{config}'",)
    assert checks["database"].outcome is CheckOutcome.OK
    assert checks["agents"].detail == "the configuration must be mended first"
    config.unlink()
    checks = await examine_this(settings_on(database_urls.app, tmp_path, config=config))
    assert checks["configuration"].advice == ("unset AGENTAPI_CONFIG",)


async def test_a_database_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    at_once = CheckTimeouts(part=timedelta(0), first_start=timedelta(0))
    checks = await examine(FakeInstallation(tmp_path, database=None), at_once)
    assert (checks["database"].outcome, checks["database"].advice) == (CheckOutcome.FAULT, (DATABASE_LINE,))
    assert "no answer within 0 s" in checks["database"].detail
    assert checks["agents"].detail == "the database must be mended first"
    (tmp_path / "pg.log").write_text("", encoding="utf-8")
    checks = await examine(FakeInstallation(tmp_path, database=None, is_remote=False), at_once)
    assert checks["database"].advice == (f"tail -n 20 {tmp_path}/pg.log", HOME_LINE)


async def test_a_command_that_an_error_names_is_the_advice(tmp_path: Path) -> None:
    error = StoreUnavailableError("It is not ready; run `agentapi-mcp migrate` once.")
    checks = await examine(FakeInstallation(tmp_path, database=error))
    assert checks["database"].advice == ("agentapi-mcp migrate",)


async def test_a_setting_that_an_error_names_is_the_advice(tmp_path: Path) -> None:
    checks = await examine(FakeInstallation(tmp_path, database=StoreMismatchError(POOLER)))
    assert checks["database"].advice == ("export AGENTAPI_STATEMENT_CACHE=false",)


@pytest.mark.parametrize(
    ("facts", "is_remote", "is_exposed", "outcome", "advice"),
    [
        (replace(WELL, is_standby=True), True, False, CheckOutcome.FAULT, (DATABASE_LINE,)),
        (WELL, True, True, CheckOutcome.OK, ()),
        (replace(WELL, remark="see `agentapi-mcp migrate`"), False, False, CheckOutcome.OK, ()),
        (replace(WELL, left_to_others=("public.x",)), True, True, CheckOutcome.OK, ()),
        (replace(WELL, is_encrypted=False), True, False, CheckOutcome.OK, ()),
        (
            replace(WELL, remark="see `agentapi-mcp migrate`"),
            True,
            False,
            CheckOutcome.WARNING,
            ("agentapi-mcp migrate",),
        ),
        (
            replace(WELL, is_encrypted=False),
            True,
            True,
            CheckOutcome.WARNING,
            ("export AGENTAPI_DATABASE_URL='...?sslmode=require'",),
        ),
    ],
)
async def test_what_a_database_tells_of_itself_is_judged(
    tmp_path: Path,
    *,
    facts: DatabaseFacts,
    is_remote: bool,
    is_exposed: bool,
    outcome: CheckOutcome,
    advice: tuple[str, ...],
) -> None:
    broken = ConfigurationError("It is wrong.")  # so that the program is not opened
    given = FakeInstallation(tmp_path, database=facts, is_remote=is_remote, is_exposed=is_exposed, configuration=broken)
    check = (await examine(given))["database"]
    assert (check.outcome, check.advice) == (outcome, advice)
    assert all(f"other programs have {name}" in check.detail for name in facts.left_to_others)


async def test_redis_is_written_to(tmp_path: Path, database_urls: DatabaseUrls, valkey: Valkey) -> None:
    settings = settings_on(database_urls.app, tmp_path, redis_url=valkey.url)
    assert (await examine_this(settings))["redis"].outcome is CheckOutcome.OK
    valkey.stop()
    check = (await examine_this(settings))["redis"]
    assert (check.outcome, check.advice) == (CheckOutcome.FAULT, (REDIS_LINE,))
    address = urlsplit(valkey.url).path  # of its socket
    assert f"Start it, or correct AGENTAPI_REDIS_URL (it names {address})." in check.detail
    check = (await examine_this(settings, {"REDIS_URL": valkey.url}))["redis"]
    assert check.advice == (REDIS_LINE,)
    assert f"or correct REDIS_URL (it names {address})." in check.detail


@pytest.mark.parametrize(
    ("named", "lines"),
    [
        ("redis+cluster://127.0.0.1:9", ("redis+cluster://:PASSWORD@HOST:6379", "redis://:PASSWORD@HOST:6379/0")),
        (
            "rediss+sentinel://127.0.0.1:9/prime",
            ("redis+sentinel://:PASSWORD@HOST:26379/NAME/0", "redis://:PASSWORD@HOST:6379/0"),
        ),
    ],
)
async def test_the_line_for_redis_is_of_the_kind_that_was_named(
    named: str, lines: tuple[str, ...], tmp_path: Path
) -> None:
    settings = settings_on("postgresql://me@127.0.0.1:9/x", tmp_path, redis_url=named)
    check = (await examine_this(settings, {"AGENTAPI_REDIS_URL": named}))["redis"]
    assert check.advice == tuple(f"export AGENTAPI_REDIS_URL='{line}'" for line in lines)


async def test_a_database_is_told_by_the_variable_that_was_set(tmp_path: Path) -> None:
    url = "postgresql://me:secret@127.0.0.1:9/x"
    check = (await examine_this(settings_on(url, tmp_path), {"DATABASE_URL": url}))["database"]
    assert check.advice == (DATABASE_LINE,)  # the other variable may be some other program's
    assert "DATABASE_URL names 127.0.0.1:9." in check.detail
    assert "AGENTAPI_DATABASE_URL" not in check.detail
    assert "secret" not in check.detail


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("postgresql://me@db.example/x", True),
        ("postgresql://me@192.0.2.7/x", True),
        ("postgresql://me@127.0.0.1/x", False),
        ("postgresql://me@localhost/x", False),
        ("postgresql://me@/x?host=/run", False),
        ("postgresql://me@127.0.0.1:1,127.0.0.1:2/x", False),
        ("postgresql://me@127.0.0.1,db.example/x", True),
    ],
)
def test_a_database_on_another_machine_is_exposed(tmp_path: Path, url: str, *, exposed: bool) -> None:
    installation = ThisInstallation({}, SystemClock(), lambda: settings_on(url, tmp_path))
    assert installation.configure().is_exposed is exposed


ACCOUNTS = '[[accounts]]\nname = "vendor"\nkind = "oauth"\nissuer = "{}"\nclient_id = "agentapi"\nagents = ["mine"]\n'
MASTER_KEY = base64.b64encode(bytes(range(32))).decode()


async def examine_accounts(urls: DatabaseUrls, home: Path, issuer: str, key: str | None = MASTER_KEY) -> Check:
    """Return what is said of a file that declares accounts at an issuer."""
    (home / "agentapi.toml").write_text(ACCOUNTS.format(issuer), encoding="utf-8")
    return (await examine_this(settings_on(urls.app, home, master_key=key)))["accounts"]


async def test_a_provider_of_accounts_is_asked_for_its_metadata(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    async with AccountProviderPeer() as peer:
        check = await examine_accounts(database_urls, tmp_path, peer.origin)
        assert (check.outcome, check.detail) == (CheckOutcome.OK, "users can be led to connect one at: vendor")
        assert [exchange.path for exchange in peer.exchanges] == ["/.well-known/oauth-authorization-server"]
        peer.lies.metadata = {"code_challenge_methods_supported": ["plain"]}
        check = await examine_accounts(database_urls, tmp_path, peer.origin)
        assert (check.outcome, check.advice) == (CheckOutcome.FAULT, (f'"${{EDITOR:-vi}}" {tmp_path}/agentapi.toml',))
        assert "at vendor: it does not support PKCE" in check.detail


async def test_accounts_that_nobody_could_connect_are_a_fault(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    check = await examine_accounts(database_urls, tmp_path, nowhere)
    assert (check.outcome, "at vendor: " in check.detail) == (CheckOutcome.FAULT, True)
    check = await examine_accounts(database_urls, tmp_path, nowhere, key=None)
    assert (check.outcome, check.advice) == (CheckOutcome.FAULT, ("export AGENTAPI_MASTER_KEY=...",))


async def test_without_accounts_nothing_is_said_of_them(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    assert "accounts" not in await examine_this(settings_on(database_urls.app, tmp_path))
