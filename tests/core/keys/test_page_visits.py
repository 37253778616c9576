"""Visits of the key page over a real database, with a real sign-in at an authorization server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from pydantic import SecretStr

from agentapi_mcp.auth.authenticators import open_authenticator
from agentapi_mcp.auth.master_keys import MasterKey
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import InvalidRequestError, NotAuthenticatedError, NotFoundError, PermissionDeniedError
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.core.access.models import LoginAnswer
from agentapi_mcp.core.access.ports import Authenticator
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditFilter
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.core.keys.api_keys import ApiKeys
from agentapi_mcp.core.keys.key_requests import KeyRequests
from agentapi_mcp.core.keys.page_visits import KeyPageVisits
from agentapi_mcp.stores.local.catalogue_files import load_catalogue
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.key_requests import PostgresKeyRequests
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.peers.authorizer import SECRET, AuthorizerPeer, described
from tests.support.peers.issuer import SigningKey
from tests.support.suspensions import COLUMNS, WAYS, end_membership, run_as_owner

ORIGIN = "https://agents.example.com"
RESOURCE, BACK = f"{ORIGIN}/mcp", f"{ORIGIN}/keys/signed-in"
SIGNING = SigningKey("visits")
KEY = SecretStr("sk-entered-0123456789")


@dataclass(frozen=True)
class VisitSetup:
    """The visits, with the authorization server where their users sign in."""

    visits: KeyPageVisits
    entries: KeyRequests
    api_keys: ApiKeys
    audit: AuditLog
    authenticator: Authenticator
    issuer: AuthorizerPeer
    http: httpx2.AsyncClient

    async def user(self, subject: str) -> Principal:
        """Make a user, as their first request does."""
        claims = {"iss": self.issuer.issuer, "sub": subject, "aud": RESOURCE, "scope": "chat read"}
        return await self.authenticator.authenticate(
            SIGNING.sign(claims | {"exp": datetime.now(UTC).timestamp() + 300})
        )

    async def begin(self, who: Principal) -> tuple[str, str]:
        """Open a link as its user, and return where to sign in with the sealed visit."""
        link = await self.visits.invite(who, "openrouter")
        assert link is not None
        redirect = await self.visits.begin(parse_qs(urlsplit(link).query)["request"][0], BACK)
        return redirect.url, redirect.sealed

    async def sign_in(self, url: str, sealed: str, subject: str) -> str:
        """Sign in, and come back."""
        self.issuer.subject = subject
        back = (await self.http.get(url)).headers["location"]
        said = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
        answer = LoginAnswer(state=said["state"], code=said["code"], issuer=said["iss"], error=None)
        redirect = await self.visits.sign_in(sealed, answer, BACK)
        assert redirect.url == "/keys/enter"
        return redirect.sealed

    async def signed_in(self, who: Principal, subject: str) -> str:
        """Open a link and sign in."""
        url, sealed = await self.begin(who)
        return await self.sign_in(url, sealed, subject)

    async def available_key(self, who: Principal) -> str | None:
        """Return the key that a user's turns are asked with."""
        found = (await self.api_keys.available(who)).find("openrouter")
        return None if found is None else found.value.get_secret_value()


@asynccontextmanager
async def open_setup(database: Database, place: Path) -> AsyncGenerator[VisitSetup]:
    clock, audit, sealer = SystemClock(), audit_log(database), AesGcmSealer([MasterKey("one", bytes(range(32)))])
    api_keys = ApiKeys(PostgresApiKeys(database), sealer, clock, audit)
    entries = KeyRequests(PostgresKeyRequests(database), api_keys, sealer, clock, ORIGIN)
    async with AuthorizerPeer(SIGNING) as issuer, httpx2.AsyncClient(timeout=25) as http:
        config = place / "agentapi.toml"
        config.write_text(described(issuer) + f'client_secret = "{SECRET}"\n', encoding="utf-8")
        async with open_authenticator(RESOURCE, SignIns(PostgresIdentities(database), audit), clock) as authenticator:
            await authenticator.reload(load_catalogue([config], {}, list).sign_in)
            visits = KeyPageVisits(entries, authenticator, PostgresProfiles(database), audit)
            yield VisitSetup(visits, entries, api_keys, audit, authenticator, issuer, http)


async def test_the_user_who_asked_signs_in_and_stores_a_key_once(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        name = f"ann-{new_id().hex}"
        ann = await at.user(name)
        visit = await at.visits.find(await at.signed_in(ann, name))
        assert (visit.provider, visit.principal.user_id, visit.principal.org_id) == (
            "openrouter",
            ann.user_id,
            ann.org_id,
        )
        assert (visit.principal.via, visit.principal.scopes) == (at.issuer.issuer, None)
        with pytest.raises(InvalidRequestError):
            await at.visits.save(visit, visit.form_token, SecretStr("no key"))
        await at.visits.save(visit, visit.form_token, KEY)
        assert await at.available_key(ann) == KEY.get_secret_value()
        with pytest.raises(NotFoundError):
            await at.visits.save(visit, visit.form_token, KEY)
        signed_in = await at.audit.list_(replace(ann, role=Role.OWNER, scopes=None), AuditFilter(user_id=ann.user_id))
        assert "sign_in" in {event.action for event in signed_in.items}


async def test_a_visit_is_found_only_after_its_sign_in_which_is_its_own(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        name = f"ann-{new_id().hex}"
        ann = await at.user(name)
        url, sealed = await at.begin(ann)
        with pytest.raises(NotAuthenticatedError):
            await at.visits.find(sealed)
        with pytest.raises(NotAuthenticatedError):
            await at.visits.find("")
        done = await at.sign_in(url, sealed, name)
        with pytest.raises(NotAuthenticatedError):  # a visit signs in once
            await at.sign_in((await at.begin(ann))[0], done, name)


async def test_another_user_is_refused_and_that_is_recorded(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        name, other = f"ann-{new_id().hex}", f"eve-{new_id().hex}"
        ann, eve = await at.user(name), await at.user(other)
        url, sealed = await at.begin(ann)
        with pytest.raises(PermissionDeniedError):
            await at.sign_in(url, sealed, other)
        events = (await at.audit.list_(replace(eve, role=Role.OWNER, scopes=None), AuditFilter())).items
        assert "permission_denied" in {event.action for event in events}
        assert await at.available_key(ann) is None


async def test_the_form_of_another_visit_is_refused_and_uses_up_nothing(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        name = f"ann-{new_id().hex}"
        ann = await at.user(name)
        one = await at.visits.find(await at.signed_in(ann, name))
        two = await at.visits.find(await at.signed_in(ann, name))
        for token in ("", "é", two.form_token):
            with pytest.raises(PermissionDeniedError):
                await at.visits.save(one, token, KEY)
        assert await at.available_key(ann) is None
        await at.visits.save(one, one.form_token, KEY)


async def test_rights_are_those_of_the_membership_now(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        name = f"ann-{new_id().hex}"
        ann = await at.user(name)
        sealed = await at.signed_in(ann, name)
        async with database.as_system("test") as connection:
            await connection.execute(
                "UPDATE public.organization_members SET role = 'viewer' WHERE user_id = $1", ann.user_id
            )
        visit = await at.visits.find(sealed)
        assert visit.principal.role is Role.VIEWER
        with pytest.raises(PermissionDeniedError):
            await at.visits.save(visit, visit.form_token, KEY)
        async with database.as_system("test") as connection:
            await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", ann.user_id)
        with pytest.raises(PermissionDeniedError):
            await at.visits.find(sealed)


async def test_only_who_still_has_the_identity_that_signed_in_has_a_page(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        name, other = f"ann-{new_id().hex}", f"ann-too-{new_id().hex}"
        ann, eve = await at.user(name), await at.user(f"eve-{new_id().hex}")
        add = "INSERT INTO agentapi.identities (issuer, subject, user_id) VALUES ($1, $2, $3)"
        async with database.as_system("test") as connection:
            await connection.execute(add, at.issuer.issuer, other, ann.user_id)
        stolen, kept = await at.signed_in(ann, other), await at.signed_in(ann, name)
        assert (await at.visits.find(stolen)).principal.user_id == ann.user_id
        # A second identity of hers at this issuer does not keep the first one's visit.
        for change in (
            "UPDATE agentapi.identities SET user_id = $3 WHERE issuer = $1 AND subject = $2",
            "DELETE FROM agentapi.identities WHERE issuer = $1 AND subject = $2 AND $3::uuid IS NOT NULL",
        ):
            async with database.as_system("test") as connection:
                await connection.execute(change, at.issuer.issuer, other, eve.user_id)
            with pytest.raises(NotAuthenticatedError, match="does not lead to this account any more"):
                await at.visits.find(stolen)
        assert (await at.visits.find(kept)).principal.user_id == ann.user_id


async def test_a_visit_that_an_earlier_version_admitted_goes_on_while_its_user_has_an_identity(
    database: Database, tmp_path: Path
) -> None:
    async with open_setup(database, tmp_path) as at:
        name = f"ann-{new_id().hex}"
        ann = await at.user(name)
        visit = at.entries.open_(await at.signed_in(ann, name))
        sealed = at.entries.seal(replace(visit, subject=None))
        assert (await at.visits.find(sealed)).principal.user_id == ann.user_id
        async with database.as_system("test") as connection:
            await connection.execute("DELETE FROM agentapi.identities WHERE user_id = $1", ann.user_id)
        with pytest.raises(NotAuthenticatedError):
            await at.visits.find(sealed)


@pytest.mark.parametrize("way", WAYS)
async def test_who_may_not_use_the_organisation_any_more_has_no_page(
    way: str, own_database: DatabaseUrls, tmp_path: Path
) -> None:
    await run_as_owner(own_database.owner, COLUMNS)
    async with (
        open_database(RemoteServer(own_database.app), PoolOptions()) as database,
        open_setup(database, tmp_path) as at,
    ):
        name = f"ann-{new_id().hex}"
        ann = await at.user(name)
        sealed, (url, begun) = await at.signed_in(ann, name), await at.begin(ann)
        await end_membership(own_database.owner, way, ann.user_id, ann.org_id)
        with pytest.raises(PermissionDeniedError):
            await at.visits.find(sealed)
        with pytest.raises(PermissionDeniedError):
            await at.sign_in(url, begun, name)


async def test_only_users_of_an_issuer_with_a_sign_in_are_invited(database: Database, tmp_path: Path) -> None:
    async with open_setup(database, tmp_path) as at:
        ann = await at.user(f"ann-{new_id().hex}")
        assert await at.visits.invite(replace(ann, role=Role.VIEWER), "openrouter") is None
        assert await at.visits.invite(replace(ann, via="local"), "openrouter") is None
        assert await at.visits.invite(replace(ann, scopes=frozenset()), "openrouter") is not None


async def test_without_a_sign_in_there_is_no_page(database: Database) -> None:
    audit, sealer = audit_log(database), AesGcmSealer([MasterKey("one", bytes(range(32)))])
    api_keys = ApiKeys(PostgresApiKeys(database), sealer, SystemClock(), audit)
    entries = KeyRequests(PostgresKeyRequests(database), api_keys, sealer, SystemClock(), ORIGIN)
    visits = KeyPageVisits(entries, None, PostgresProfiles(database), audit)
    answer = LoginAnswer(state=None, code=None, issuer=None, error=None)
    for refused in (visits.begin("x", BACK), visits.sign_in("x", answer, BACK), visits.find("x")):
        with pytest.raises(NotFoundError):
            await refused
