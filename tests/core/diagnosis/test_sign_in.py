"""The doctor on sign-in: what it asks, what it makes of the answers, and which line mends each fault."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentapi_mcp.app.doctor import ThisInstallation
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, IssuerUnavailableError, StoreUnavailableError
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.access.models import Issuer, Service
from agentapi_mcp.core.diagnosis.models import CheckOutcome, PendingDatabase, SignInSetup
from agentapi_mcp.settings import Settings
from tests.conftest import DatabaseUrls
from tests.core.diagnosis.test_doctor import examine, settings_on
from tests.support.installations import FakeInstallation

RESOURCE = "https://agents.example.com/mcp"
FIRST, SECOND = OrgId(new_id()), OrgId(new_id())
ISSUER = Issuer(
    issuer="https://auth.example.com",
    domains={"example.com": FIRST},
    services=(Service(org_id=SECOND, client_id="nightly"),),
)
SETUP = SignInSetup(issuers=(ISSUER,), resource_url=RESOURCE)
SERVE_LINE = "agentapi-mcp serve --allowed-host agents.example.com"


def with_note(message: str, note: str) -> ConfigurationError:
    """Make an error that comes with the line that mends it."""
    error = ConfigurationError(message)
    error.add_note(note)
    return error


BROKEN = ConfigurationError("It is wrong.")


async def examine_sign_in(installation: FakeInstallation) -> dict[str, tuple[CheckOutcome, str, tuple[str, ...]]]:
    """Return what is said of sign-in; the agents are not asked, since Redis, say, keeps them from it."""
    installation.asks_agents = False
    checks = await examine(installation)
    return {name: (check.outcome, check.detail, check.advice) for name, check in checks.items()}


async def test_a_sign_in_that_works_is_told_part_by_part(tmp_path: Path) -> None:
    organizations = frozenset({FIRST, SECOND})
    given = FakeInstallation(tmp_path, setup=SETUP, organizations=organizations, unknown_proxy=False)
    checks = await examine_sign_in(given)
    parts = ("sign-in", "issuer https://auth.example.com", "organizations", "resource URL", "proxy")
    assert [checks[name][0] for name in parts] == [CheckOutcome.OK] * 5
    assert given.asked == ["database", "redis", ISSUER.issuer, "organizations", RESOURCE, "agents"]


@pytest.mark.parametrize(
    ("changes", "name", "says", "lines"),
    [
        ({"issuer": IssuerUnavailableError("no keys")}, "issuer https://auth.example.com", "no keys", ("EDIT",)),
        ({"organizations": frozenset({FIRST})}, "organizations", f"the service nightly of {ISSUER.issuer}", ("EDIT",)),
        ({"organizations": frozenset({SECOND})}, "organizations", 'domains."example.com" of', ("EDIT",)),
        (
            {"resource": ConfigurationError("`rm -rf /` says the other server")},
            "resource URL",
            "the other server",
            ("export AGENTAPI_RESOURCE_URL=https://HOST/mcp",),
        ),
        ({"resource": with_note("It is answered 421.", SERVE_LINE)}, "resource URL", "answered 421", (SERVE_LINE,)),
        ({"unknown_proxy": True}, "proxy", "AGENTAPI_TRUSTED_PROXIES", ("export AGENTAPI_TRUSTED_PROXIES=...",)),
        (
            {"setup": replace(SETUP, refusal="half: `export AGENTAPI_RESOURCE_URL=https://HOST/mcp`, or not")},
            "sign-in",
            "half",
            ("export AGENTAPI_RESOURCE_URL=https://HOST/mcp",),
        ),
    ],
)
async def test_each_fault_has_a_check_of_its_own_with_the_line_that_mends_it(
    changes: dict[str, object], name: str, says: str, lines: tuple[str, ...], tmp_path: Path
) -> None:
    edit = f'"${{EDITOR:-vi}}" {tmp_path}/agentapi.toml'
    well = FakeInstallation(tmp_path, setup=SETUP, organizations=frozenset({FIRST, SECOND}), unknown_proxy=False)
    checks = await examine_sign_in(replace(well, **changes))
    outcome, detail, advice = checks[name]
    assert outcome is CheckOutcome.FAULT
    assert says in detail
    assert advice == tuple(edit if line == "EDIT" else line for line in lines)
    assert sum(outcome is CheckOutcome.FAULT for outcome, _, _ in checks.values()) == 1


async def test_what_serve_would_refuse_is_a_fault_with_the_ways_out(tmp_path: Path) -> None:
    refusal = "others: `export AGENTAPI_BEARER_TOKEN=$(openssl rand -hex 32)`, say"
    setup = SignInSetup(needs_token=refusal)
    outcome, detail, lines = (await examine_sign_in(FakeInstallation(tmp_path, setup=setup)))["sign-in"]
    assert outcome is CheckOutcome.FAULT
    assert "`serve` refuses to start: others" in detail
    assert "give `doctor` the option too" in detail
    assert lines == ("export AGENTAPI_BEARER_TOKEN=$(openssl rand -hex 32)",)


async def test_what_no_option_of_serve_mends_is_a_fault_of_its_own(tmp_path: Path) -> None:
    setup = SignInSetup(broken="AGENTAPI_TLS_CERT is wrong.")
    checks = await examine_sign_in(FakeInstallation(tmp_path, setup=setup))
    assert checks["serve"] == (CheckOutcome.FAULT, "AGENTAPI_TLS_CERT is wrong.", ("export AGENTAPI_TLS_CERT=...",))
    assert checks["sign-in"][0] is CheckOutcome.NOT_IN_USE


@pytest.mark.parametrize("answer", [None, StoreUnavailableError("away")])
async def test_a_server_that_does_not_say_how_it_is_reached_is_no_fault(
    answer: AgentApiError | None, tmp_path: Path
) -> None:
    given = FakeInstallation(tmp_path, setup=SETUP, organizations=frozenset({FIRST, SECOND}), unknown_proxy=answer)
    assert (await examine_sign_in(given))["proxy"][0] is CheckOutcome.NOT_CHECKED
    nowhere = FakeInstallation(tmp_path, unknown_proxy=answer)
    assert "proxy" not in await examine_sign_in(nowhere)


@pytest.mark.parametrize("database", [PendingDatabase("not yet"), StoreUnavailableError("away")])
async def test_organisations_are_not_looked_for_without_a_database(
    database: PendingDatabase | AgentApiError, tmp_path: Path
) -> None:
    given = FakeInstallation(tmp_path, database=database, is_remote=False, setup=SETUP)
    assert (await examine_sign_in(given))["organizations"][0] is CheckOutcome.NOT_CHECKED
    assert "organizations" not in given.asked


async def test_without_a_configuration_nothing_is_asked(tmp_path: Path) -> None:
    given = FakeInstallation(tmp_path, setup=SETUP, configuration=BROKEN)
    assert (await examine_sign_in(given))["sign-in"][0] is CheckOutcome.NOT_CHECKED
    assert given.asked == ["database", "redis"]


@pytest.mark.parametrize(
    ("file", "given", "refusal", "needs_token"),
    [
        ("", {}, None, None),
        ("", {"trusted_proxies": "127.0.0.1"}, None, "the proxy at 127.0.0.1"),
        ("", {"allowed_hosts": "agents.example.com"}, None, "whoever calls it agents.example.com"),
        ("", {"allowed_origins": "https://web.example"}, None, "https://web.example in a browser"),
        ("", {"trusted_proxies": "127.0.0.1", "bearer_token": "x" * 16}, None, None),
        ("", {"trusted_proxies": "127.0.0.1", "require_token": "true"}, None, None),
        ("", {"resource_url": RESOURCE}, "declare [[issuers]]", None),
        ('[[issuers]]\nissuer = "https://a.example"\n', {}, "AGENTAPI_RESOURCE_URL=", None),
        ('[[issuers]]\nissuer = "https://a.example"\n', {"resource_url": RESOURCE}, None, None),
    ],
)
def test_the_words_are_those_by_which_serve_refuses(
    file: str, given: dict[str, str], refusal: str | None, needs_token: str | None, tmp_path: Path
) -> None:
    (tmp_path / "agentapi.toml").write_text(file, encoding="utf-8")
    settings = Settings(home=tmp_path, **given)  # type: ignore[arg-type]  # pydantic reads them
    setup = ThisInstallation({}, SystemClock(), lambda: settings).configure().sign_in()
    assert (refusal is None) is (setup.refusal is None)
    assert (needs_token is None) is (setup.needs_token is None)
    assert (refusal or "") in (setup.refusal or "")
    assert (needs_token or "") in (setup.needs_token or "")


async def test_organisations_are_looked_up_in_the_database(database_urls: DatabaseUrls, tmp_path: Path) -> None:
    installation = ThisInstallation({}, SystemClock(), lambda: settings_on(database_urls.app, tmp_path)).configure()
    assert await installation.find_organizations([FIRST]) == frozenset()
