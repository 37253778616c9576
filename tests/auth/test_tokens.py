"""Which access tokens are taken, and that no issuer can make us slow, or believe what is old."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentapi_mcp.auth.authenticators import OAuthAuthenticator
from agentapi_mcp.auth.authorization import MetadataMemory
from agentapi_mcp.auth.fetching import FetchError, HttpFetch, check_address
from agentapi_mcp.auth.keys import FRESH_FOR, MIN_REFRESH_INTERVAL, USABLE_FOR, metadata_urls
from agentapi_mcp.auth.tokens import TokenVerifier
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import IssuerUnavailableError, NotAuthenticatedError, TokenFlaw
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.access.models import Issuer, Service, TokenClaims
from tests.support.clocks import ManualClock
from tests.support.peers.issuer import IssuerPeer, Mood, SigningKey, forged_with_public_key, unsigned

RESOURCE = "https://agents.example.com/mcp"
KEY = SigningKey("one")
OTHER = SigningKey("two")
EC, ED = SigningKey("ec", "ES256"), SigningKey("ed", "EdDSA")
MOODS: tuple[Mood, ...] = ("hangs", "fails", "empty", "huge", "redirects", "other_issuer", "nonsense", "bad_address")


@dataclass
class VerifierSetup:
    """A verifier, the issuer that it trusts, and time."""

    verifier: TokenVerifier
    peer: IssuerPeer
    clock: ManualClock

    def claims(self, **changed: object) -> dict[str, object]:
        """Say what a good token says; None leaves a claim out."""
        now = self.clock.now().timestamp()
        said: dict[str, object] = {
            "iss": self.peer.issuer,
            "sub": "user-1",
            "aud": RESOURCE,
            "iat": now,
            "exp": now + 300,
            "scope": "chat read",
        }
        return {name: value for name, value in (said | changed).items() if value is not None}

    async def verify(self, key: SigningKey = KEY, /, **changed: object) -> TokenClaims:
        """Verify a token of this key."""
        return await self.verifier.verify(key.sign(self.claims(**changed)))

    async def refused(self, token: str, flaw: TokenFlaw = TokenFlaw.FORGED) -> str:
        """See a token refused for a flaw."""
        with pytest.raises(NotAuthenticatedError) as caught:
            await self.verifier.verify(token)
        assert caught.value.flaw is flaw
        return str(caught.value)

    async def unanswered(self, token: str) -> None:
        """See that nobody can say whether a token is good."""
        with pytest.raises(IssuerUnavailableError):
            await self.verifier.verify(token)


@dataclass(frozen=True)
class Impatient:
    """Fetches, and gives up soon where the peer hangs: a busy machine makes no other answer late."""

    peer: IssuerPeer
    client: httpx2.AsyncClient

    async def __call__(self, url: str) -> Mapping[str, object]:
        """Return the document."""
        return await HttpFetch(self.client, within=timedelta(seconds=0.3 if self.peer.mood == "hangs" else 25))(url)


@asynccontextmanager
async def open_fetching() -> AsyncGenerator[tuple[httpx2.AsyncClient, asyncio.TaskGroup]]:
    """Open what keys are fetched with, and where."""
    async with httpx2.AsyncClient() as client, asyncio.TaskGroup() as group:
        yield client, group


@asynccontextmanager
async def open_setup(*keys: SigningKey, path: str = "", **issuer: Any) -> AsyncGenerator[VerifierSetup]:  # noqa: ANN401  # whatever an issuer has
    clock = ManualClock()
    async with IssuerPeer(*(keys or (KEY,)), path=path) as peer, open_fetching() as (client, group):
        verifier = TokenVerifier(RESOURCE, Impatient(peer, client), clock, group)
        await verifier.set_issuers([Issuer(issuer=peer.issuer, **issuer)])
        try:
            yield VerifierSetup(verifier, peer, clock)
        finally:
            await verifier.aclose()


async def test_a_good_token_tells_who_it_is_of() -> None:
    async with open_setup(organization_claim="org_id") as at:
        email: dict[str, object] = {"email": "Ann@Example.com", "email_verified": True}
        said = await at.verify(client_id="cli", org_id="org-7", name="Ann", aud=["https://x", RESOURCE], **email)
    assert (said.subject, said.scopes, said.client_id) == ("user-1", {"chat", "read"}, "cli")
    assert (said.organization, said.email, said.name, said.is_service) == ("org-7", "ann@example.com", "Ann", False)


@pytest.mark.parametrize("key", [KEY, EC, ED])
@pytest.mark.parametrize("path", ["", "/tenant"])
async def test_each_kind_of_key_and_place_of_metadata_is_understood(key: SigningKey, path: str) -> None:
    async with open_setup(KEY, EC, ED, path=path) as at:
        assert (await at.verify(key)).subject == "user-1"


async def test_an_email_that_nobody_verified_is_none() -> None:
    async with open_setup() as at:
        assert (await at.verify(email="a@b.c")).email is None
        assert (await at.verify(email="a@b.c", email_verified="true")).email is None


@pytest.mark.parametrize(
    ("said", "is_service"),
    [
        ({"sub": "cli", "client_id": "cli"}, True),
        ({"sub": "cli", "azp": "cli"}, True),
        ({"sub": "cli", "cid": "cli"}, True),
        ({"sub": "cli@clients", "azp": "cli", "gty": "client-credentials"}, True),
        ({"sub": "an-object", "azp": "cli", "idtyp": "app"}, True),
        ({"sub": "a-program", "client_id": "web"}, True),
        ({"sub": "user-1", "client_id": "nightly"}, False),
        ({"sub": "user-1", "idtyp": "user", "gty": "password"}, False),
        ({"sub": "nightly"}, False),
    ],
)
async def test_a_programs_own_token_is_told_from_one_that_stands_for_a_person(
    said: dict[str, object], *, is_service: bool
) -> None:
    org_id = OrgId(new_id())
    declared = (Service(subject="a-program", org_id=org_id), Service(client_id="nightly", org_id=org_id))
    async with open_setup(services=declared) as at:
        assert (await at.verify(**said)).is_service == is_service


@pytest.mark.parametrize("said", [["one"], {"id": "one"}, 7, True, "", "x" * 300, "a\nb", []])
async def test_an_organisation_that_cannot_be_read_binds_a_token_to_none(said: object) -> None:
    async with open_setup(organization_claim="org") as at:
        assert (await at.verify(org="one")).organization == "one"
        for nothing in ({}, {"org": None}):
            assert (await at.verify(**nothing)).organization is None
        await at.refused(KEY.sign(at.claims(org=said)), TokenFlaw.UNSUITABLE)


@pytest.mark.parametrize(
    ("email", "read"),
    [
        ("Ann@Example.com", "ann@example.com"),
        ("a.n+n@example.com", "a.n+n@example.com"),
        ("eve@\u212aorp.com", None),
        ("eve@evil.example,ann@example.com", None),
        ('"eve@evil.example"@example.com', None),
        ("eve@evil.example@example.com", None),
        ("eve @example.com", None),
    ],
)
async def test_an_email_that_could_be_taken_for_anothers_says_nothing(email: str, read: str | None) -> None:
    async with open_setup() as at:
        assert (await at.verify(email=email, email_verified=True)).email == read


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "https://agents.example.com"},
        {"aud": "https://agents.example.com/mcp/"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"iss": ["x"]},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 300},
        {"sub": "a\nb"},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": -1e300},
        {"exp": 1e15},
        {"exp": 253402300799},  # the last second of the year 9999
        {"nbf": "later"},
        {"jti": 7},
    ],
)
async def test_what_a_token_must_say_it_must_say_rightly(changed: dict[str, object]) -> None:
    async with open_setup() as at:
        flaw = TokenFlaw.FORGED if "iss" in changed else TokenFlaw.UNSUITABLE
        await at.refused(KEY.sign(at.claims(**changed)), flaw)
        await at.refused(OTHER.sign(at.claims(**changed), kid="one"))
        assert (await at.verify()).subject == "user-1"


@pytest.mark.parametrize(
    ("aud", "nearly"),
    [
        (f"{RESOURCE}/", True),
        (RESOURCE.upper(), True),
        (RESOURCE.replace("https", "HTTPS"), True),
        ([f"{RESOURCE}/", "https://x"], True),
        (RESOURCE.replace("https", "http"), False),
        (RESOURCE.replace("/mcp", ":443/mcp"), False),
        (RESOURCE.removesuffix("/mcp"), False),
        ("https://evil.example\n\x1b[31m", False),
    ],
)
async def test_an_audience_is_compared_to_the_letter_and_a_wrong_one_is_told_as_such(
    aud: object,
    nearly: bool,  # noqa: FBT001  # a parameter
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "agentapi_mcp.auth.tokens")
    async with open_setup() as at:
        said = await at.refused(KEY.sign(at.claims(aud=aud)), TokenFlaw.UNSUITABLE)
        assert f"must be {RESOURCE} to the letter" in said
        [reason] = [str(record.__dict__["reason"]) for record in caplog.records]
        assert reason.startswith("its audience is ")
        assert (f"that of this server {RESOURCE}" in reason, reason.isprintable()) == (True, True)
        assert ("a slash at the end" in reason) == nearly
        # Whoever cannot sign learns nothing of what is checked after the signature.
        assert await at.refused(OTHER.sign(at.claims(aud=aud), kid="one")) == "This token is not valid here."


async def test_an_audience_that_the_operator_chose_is_told_to_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "agentapi_mcp.auth.tokens")
    async with open_setup(audience="api://agents") as at:
        said = await at.refused(KEY.sign(at.claims(aud=RESOURCE)), TokenFlaw.UNSUITABLE)
        assert ("audience is another one" in said, "api://agents" in said) == (True, False)
        assert "api://agents" in str(caplog.records[0].__dict__["reason"])
        assert (await at.verify(aud="api://agents")).subject == "user-1"


async def test_time_is_kept_with_half_a_minute_of_grace() -> None:
    async with open_setup() as at:
        now = at.clock.now().timestamp()
        for changed in ({"exp": now - 29}, {"nbf": now + 29}, {"iat": now + 29}):
            await at.verify(**changed)
        assert await at.refused(KEY.sign(at.claims(exp=now - 31)), TokenFlaw.ENDED) == "This token has expired."
        await at.refused(OTHER.sign(at.claims(exp=now - 31), kid="one"))
        for changed in ({"nbf": now + 31}, {"iat": now + 31}):
            said = await at.refused(KEY.sign(at.claims(**changed)), TokenFlaw.UNSUITABLE)
            assert said == "This token is not valid here."


async def test_no_trick_with_the_signature_works() -> None:
    async with open_setup() as at:
        claims = at.claims()
        good = KEY.sign(claims)
        head, body, signature = good.split(".")
        tricks = [
            unsigned(claims),
            forged_with_public_key(KEY, claims),
            SigningKey("one").sign(claims),  # another's key of the same name
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-6]}AAAAAA",
            f"{head}.{KEY.sign(at.claims(sub='admin')).split('.')[1]}.{signature}",
            KEY.sign(claims, kid="unknown"),
            KEY.sign(claims, kid="../one"),
            KEY.sign(claims, typ="logout+jwt"),
            KEY.sign(claims, typ="dpop+jwt"),
            KEY.sign(claims, crit=["b64"], b64=True),
            KEY.sign(claims, jwk=OTHER.jwk, kid="two"),
            KEY.sign(claims, jku="http://127.0.0.1:9/keys", kid="two"),
            EC.sign(claims, kid="one"),
            good + "x" * 20_000,
            "",
            "a.b.c",
            "not a token",
        ]
        for token in tricks:
            assert await at.refused(token) == "This token is not valid here."
        await at.verifier.verify(good)


async def test_a_token_that_no_issuer_signed_costs_the_database_nothing() -> None:
    async with open_setup() as at, httpx2.AsyncClient() as client:
        nothing: Any = None  # to ask
        fetch = HttpFetch(client)
        metadata = MetadataMemory(fetch, SystemClock())
        authenticator = OAuthAuthenticator(fetch, metadata, RESOURCE, at.verifier, nothing)
        for token in ("a.b.c", unsigned(at.claims()), OTHER.sign(at.claims(), kid="one")):
            with pytest.raises(NotAuthenticatedError):
                await authenticator.authenticate(token)
        with pytest.raises(AttributeError):
            await authenticator.authenticate(KEY.sign(at.claims()))


async def test_an_algorithm_that_the_operator_did_not_name_is_refused() -> None:
    async with open_setup(KEY, EC, algorithms=("ES256",)) as at:
        assert (await at.verify(EC)).subject == "user-1"
        assert await at.refused(KEY.sign(at.claims())) == "This token is not valid here."


async def test_a_token_without_a_key_id_is_taken_where_only_one_key_can_be_meant() -> None:
    async with open_setup(KEY, EC) as at:
        assert (await at.verifier.verify(KEY.sign(at.claims(), kid=None))).subject == "user-1"
    async with open_setup(KEY, OTHER) as at:
        assert await at.refused(KEY.sign(at.claims(), kid=None)) == "This token is not valid here."


async def test_a_new_key_is_found_and_one_that_was_rotated_away_is_forgotten() -> None:
    async with open_setup(KEY) as at:
        await at.verify()
        at.peer.keys = [OTHER]
        at.clock.advance(MIN_REFRESH_INTERVAL)
        assert (await at.verify(OTHER)).subject == "user-1"
        assert await at.refused(KEY.sign(at.claims())) == "This token is not valid here."


async def test_a_rotated_key_is_forgotten_within_minutes_though_nobody_uses_the_new_one() -> None:
    async with open_setup(KEY) as at:
        await at.verify()
        at.peer.keys = [OTHER]
        at.clock.advance(FRESH_FOR)
        await at.refused(KEY.sign(at.claims()))
        await at.refused(KEY.sign(at.claims(), kid="unknown"))  # waits for what is being asked
        await at.refused(KEY.sign(at.claims()))
        assert at.peer.times_asked == 2


async def test_unknown_keys_do_not_make_us_ask_at_every_token() -> None:
    async with open_setup() as at:
        await at.verify()
        for number in range(20):
            await at.refused(KEY.sign(at.claims(), kid=f"unknown-{number}"))
        assert at.peer.times_asked == 1
        at.clock.advance(MIN_REFRESH_INTERVAL)
        await at.refused(KEY.sign(at.claims(), kid="unknown"))
        assert at.peer.times_asked == 2


@pytest.mark.parametrize("mood", MOODS)
async def test_an_issuer_that_is_unwell_is_not_believed_nor_waited_for_again(mood: Mood) -> None:
    async with open_setup() as at:
        at.peer.mood = mood
        await at.unanswered(KEY.sign(at.claims()))
        asked = len(at.peer.exchanges)
        await at.unanswered(KEY.sign(at.claims()))
        assert len(at.peer.exchanges) == asked
        at.peer.mood = "well"
        at.clock.advance(MIN_REFRESH_INTERVAL)
        await at.verify()


@pytest.mark.parametrize("mood", [mood for mood in MOODS if mood != "other_issuer"])
async def test_known_keys_last_while_their_issuer_is_unwell_but_not_for_ever(mood: Mood) -> None:
    async with open_setup() as at:
        await at.verify()
        at.peer.mood = mood
        at.clock.advance(FRESH_FOR)
        assert (await at.verify()).subject == "user-1"
        await at.unanswered(OTHER.sign(at.claims()))  # it may be new
        at.clock.advance(USABLE_FOR - FRESH_FOR)
        await at.unanswered(KEY.sign(at.claims()))


async def test_what_is_declared_anew_of_an_issuer_leaves_its_keys_known() -> None:
    async with open_setup() as at:
        await at.verify()
        issuer = Issuer(issuer=at.peer.issuer, trusts_email=True)
        await at.verifier.set_issuers([issuer])
        assert (await at.verify()).issuer == issuer
        assert at.peer.times_asked == 1
        await at.verifier.set_issuers([replace(issuer, jwks_uri=at.peer.jwks_uri)])
        await at.verify()
        assert at.peer.times_asked == 2
        await at.verifier.set_issuers([])
        await at.refused(KEY.sign(at.claims()))


async def test_several_issuers_stand_beside_each_other_and_sign_for_themselves_alone() -> None:
    clock = ManualClock()
    async with IssuerPeer(KEY) as one, IssuerPeer(OTHER) as two, open_fetching() as (client, group):
        issuers = [
            Issuer(issuer=one.issuer),
            Issuer(issuer=two.issuer, audience="authenticated", jwks_uri=two.jwks_uri),
        ]
        verifier = TokenVerifier(RESOURCE, HttpFetch(client), clock, group)
        await verifier.set_issuers(issuers)
        first, second = VerifierSetup(verifier, one, clock), VerifierSetup(verifier, two, clock)
        assert (await first.verify()).issuer.issuer == one.issuer
        assert (await second.verify(OTHER, aud="authenticated")).issuer.issuer == two.issuer
        for token in (OTHER.sign(first.claims()), KEY.sign(second.claims())):
            await first.refused(token)
        await first.refused(OTHER.sign(second.claims()), TokenFlaw.UNSUITABLE)  # of the right issuer, for others
        await verifier.aclose()


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,30}"))
async def test_any_text_is_refused(token: str) -> None:
    async with open_fetching() as (client, group):
        verifier = TokenVerifier(RESOURCE, HttpFetch(client), ManualClock(), group)
        await verifier.set_issuers([Issuer(issuer="http://127.0.0.1:9")])
        with pytest.raises(NotAuthenticatedError):
            await verifier.verify(token)


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example.com/keys",
        "file:///etc/passwd",
        "ftp://x",
        "",
        "https://[::1",
        "https://a:b/",
        "https://issuer.example@evil.example/",
        "http://localhost:80@evil.example/",
        "http://localhost.evil.example/",
    ],
)
def test_keys_do_not_come_unprotected_over_a_network(url: str) -> None:
    with pytest.raises(FetchError):
        check_address(url)


def test_metadata_is_looked_for_where_the_specification_says() -> None:
    assert metadata_urls("https://a.example/t1") == (
        "https://a.example/.well-known/oauth-authorization-server/t1",
        "https://a.example/.well-known/openid-configuration/t1",
        "https://a.example/t1/.well-known/openid-configuration",
    )
    assert metadata_urls("https://a.example/") == metadata_urls("https://a.example")
