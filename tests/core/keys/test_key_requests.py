"""Requests for keys over a real database: whose they are, and how long what a browser keeps of them is good for."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from agentapi_mcp.auth.master_keys import MasterKey
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.clock import Clock, SystemClock
from agentapi_mcp.base.errors import CallerError, NotAuthenticatedError, NotFoundError, PermissionDeniedError
from agentapi_mcp.core.access.models import LoginBegun
from agentapi_mcp.core.identity.principals import Principal
from agentapi_mcp.core.keys.api_keys import ApiKeys
from agentapi_mcp.core.keys.key_requests import CONSENT_LIFETIME, LIFETIME, KeyRequests, PageRequests
from agentapi_mcp.core.keys.models import PagePurpose, Visit
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.key_requests import MOST_REQUESTS, PostgresKeyRequests
from tests.support.audits import audit_log
from tests.support.clocks import ManualClock
from tests.support.members import new_member

ISSUER = "https://issuer.example.com"
KEY = SecretStr("sk-entered-0123456789")


def opened(database: Database, clock: Clock | None = None) -> tuple[KeyRequests, ApiKeys]:
    clock, sealer = clock or SystemClock(), AesGcmSealer([MasterKey("one", bytes(range(32)))])
    api_keys = ApiKeys(PostgresApiKeys(database), sealer, clock, audit_log(database))
    return KeyRequests(PostgresKeyRequests(database), api_keys, sealer, clock, "https://agents.example.com"), api_keys


async def test_a_visit_that_waits_for_a_consent_ends_after_ten_minutes_and_another_after_fifteen(
    database: Database,
) -> None:
    clock = ManualClock(SystemClock().now())
    sealer = AesGcmSealer([MasterKey("one", bytes(range(32)))])
    requests = PageRequests(PostgresKeyRequests(database), sealer, clock, "https://a.example", PagePurpose.ACCOUNT)
    begun = LoginBegun(issuer=ISSUER, url="https://issuer.example.com/authorize", state="s", verifier="v")
    waiting = Visit(token_sha256=b"x", form_token="t", connecting=begun)  # noqa: S106  # of no form
    consenting, entering = requests.seal(waiting), requests.seal(replace(waiting, connecting=None))
    clock.advance(CONSENT_LIFETIME - timedelta(seconds=1))
    assert requests.open_(consenting) == replace(waiting, connecting=replace(begun, url=""))
    clock.advance(timedelta(seconds=1))
    with pytest.raises(NotAuthenticatedError):
        requests.open_(consenting)
    assert requests.open_(entering).connecting is None
    assert timedelta(minutes=10) == CONSENT_LIFETIME < LIFETIME


async def test_without_a_master_key_nobody_visits_a_page(database: Database) -> None:
    store = PostgresKeyRequests(database)
    requests = PageRequests(store, None, SystemClock(), "https://a.example", PagePurpose.ACCOUNT)
    with pytest.raises(NotFoundError, match="no master key"):
        requests.seal(Visit())
    with pytest.raises(NotFoundError, match="no master key"):
        requests.open_("")


async def visited(requests: KeyRequests, who: Principal) -> Visit:
    """Request a key of somebody, and open the link."""
    link = await requests.create(who, "openrouter", lambda issuer: issuer == ISSUER)
    assert link is not None
    request = await requests.find(parse_qs(urlsplit(link).query)["request"][0])
    return Visit(token_sha256=request.token_sha256)


async def admit(requests: KeyRequests, visit: Visit, visitor: Principal) -> None:
    await requests.admit(visit, visitor)


async def save(requests: KeyRequests, visit: Visit, visitor: Principal) -> None:
    await requests.save(visit, visitor, KEY)


async def test_a_user_has_few_links_at_once_and_a_new_one_replaces_the_oldest(database: Database) -> None:
    ann, bob, clock = await new_member(database), await new_member(database), ManualClock(SystemClock().now())
    ann, bob = replace(ann, via=ISSUER), replace(bob, via=ISSUER)
    requests, _ = opened(database, clock)
    others = await visited(requests, bob)
    visits: list[Visit] = []
    for _ in range(MOST_REQUESTS + 1):
        visits.append(await visited(requests, ann))
        clock.advance(timedelta(seconds=1))
    with pytest.raises(NotFoundError):
        await requests.find_for(visits[0])
    for visit in (*visits[1:], others):
        assert await requests.find_for(visit)


@pytest.mark.parametrize(
    ("step", "changed", "refusal"),
    [
        (admit, "user_id", PermissionDeniedError),
        (admit, "org_id", PermissionDeniedError),
        (admit, "via", PermissionDeniedError),
        (save, "user_id", NotFoundError),
        (save, "org_id", NotFoundError),
    ],
)
async def test_a_request_serves_its_user_in_its_organisation_and_nobody_else(
    step: Callable[[KeyRequests, Visit, Principal], Awaitable[None]],
    changed: str,
    refusal: type[CallerError],
    database: Database,
) -> None:
    requests, api_keys = opened(database)
    ann = replace(await new_member(database), via=ISSUER)
    eve = replace(await new_member(database), via="https://elsewhere.example.com")
    stranger = replace(ann, **{changed: getattr(eve, changed)})
    with pytest.raises(refusal):
        await step(requests, await visited(requests, ann), stranger)
    assert [await api_keys.list_(each) for each in (ann, eve, stranger)] == [(), (), ()]
    await step(requests, await visited(requests, ann), ann)


async def test_a_sealed_visit_is_good_for_a_quarter_of_an_hour(database: Database) -> None:
    clock = ManualClock()
    requests, _ = opened(database, clock)
    visit = Visit(token_sha256=bytes(32), form_token="token")  # noqa: S106  # of this test alone
    sealed = requests.seal(visit)
    clock.advance(LIFETIME - timedelta(seconds=1))
    assert requests.open_(sealed) == visit
    clock.advance(timedelta(seconds=1))
    with pytest.raises(NotAuthenticatedError, match="not valid any more"):
        requests.open_(sealed)
