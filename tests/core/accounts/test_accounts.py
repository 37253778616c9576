"""Accounts over a real database and a real provider: connected, renewed by one process alone, revoked, disconnected."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx2
import pytest
from pydantic import SecretStr
from typing_extensions import override

from agentapi_mcp.auth.account_flows import AccountFlows
from agentapi_mcp.auth.master_keys import MasterKey
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import (
    AccountNeededError,
    AgentApiError,
    BackendError,
    BackendFault,
    ConfigurationError,
    ConflictError,
    IssuerUnavailableError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
    StoreError,
)
from agentapi_mcp.core.access.models import LoginAnswer, LoginBegun
from agentapi_mcp.core.accounts.accounts import Accounts
from agentapi_mcp.core.accounts.models import AccountKind, AccountProvider, AccountState, SealedAccount
from agentapi_mcp.core.accounts.ports import AccountCache
from agentapi_mcp.core.accounts.tokens import TokenPorts
from agentapi_mcp.core.audit.log import AuditLog
from agentapi_mcp.core.audit.models import AuditAction, AuditFilter
from agentapi_mcp.core.identity.principals import VIA_PERSONAL, Principal, Role, TokenScope
from agentapi_mcp.core.keys.models import Rotation
from agentapi_mcp.stores.local.accounts import NoAccountCache
from agentapi_mcp.stores.postgres.accounts import PostgresAccounts
from agentapi_mcp.stores.postgres.database import Database
from tests.support.audits import audit_log
from tests.support.clocks import ManualClock
from tests.support.members import new_member
from tests.support.peers.account_provider import CLIENT, SECRET, AccountProviderPeer

ONE, TWO = MasterKey("one", bytes(range(32))), MasterKey("two", bytes(range(32, 64)))
BACK = "http://127.0.0.1:3000/accounts/callback"
PAGE, ISSUER, COMMAND = "https://a.example/accounts/", "https://auth.example", "`agentapi-mcp accounts connect vendor`"
SHORT = timedelta(milliseconds=300)
MOMENT = timedelta(milliseconds=20)


class LiveClock(ManualClock):
    """A clock whose time is moved by hand, and whose sleeps are real and short: leases are by the database's clock."""

    @override
    async def sleep(self, duration: timedelta) -> None:
        await SystemClock().sleep(MOMENT)


@dataclass
class AccountSetup:
    """The accounts of one process, and the provider."""

    accounts: Accounts
    provider: AccountProvider
    peer: AccountProviderPeer
    clock: LiveClock
    audit: AuditLog
    http: httpx2.AsyncClient
    store: PostgresAccounts

    async def consent(self, begun: LoginBegun) -> LoginAnswer:
        """Consent at the provider, and come back."""
        location = (await self.http.get(begun.url)).headers["location"]
        assert location.startswith(BACK)
        said = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        return LoginAnswer(
            state=said.get("state"), code=said.get("code"), issuer=said.get("iss"), error=said.get("error")
        )

    async def connect(self, who: Principal) -> None:
        """Connect an account."""
        begun = await self.accounts.begin(who, self.provider.name, BACK)
        await self.accounts.finish(who, self.provider.name, begun, await self.consent(begun), BACK)

    async def token(self, who: Principal) -> str:
        """Return the access token that a turn would use."""
        available = await self.accounts.available(who)
        name = available.needed(self.provider.name)
        return (await self.accounts.token(who, available, name)).value.get_secret_value()

    async def actions(self, who: Principal) -> list[str]:
        """List what the audit log has of somebody."""
        await self.audit.flush()
        owner = replace(who, role=Role.OWNER, scopes=None)
        events = (await self.audit.list_(owner, AuditFilter(user_id=who.user_id))).items
        return [event.action for event in events][::-1]


def provider_at(peer: AccountProviderPeer, kind: AccountKind = AccountKind.OAUTH) -> AccountProvider:
    return AccountProvider(
        name="vendor",
        kind=kind,
        issuer=peer.origin,
        client_id=CLIENT,
        client_secret=SecretStr(SECRET),
        scopes=() if kind is AccountKind.OPENROUTER else ("models", "chat"),
        pays_for=frozenset({"vendor"}),
    )


@asynccontextmanager
async def open_setup(
    database: Database,
    kind: AccountKind = AccountKind.OAUTH,
    *,
    clock: LiveClock | None = None,
    cache: AccountCache | None = None,
) -> AsyncGenerator[AccountSetup]:
    async with AccountProviderPeer() as peer, another(database, peer, kind, clock=clock, cache=cache) as at:
        yield at


@asynccontextmanager
async def another(
    database: Database,
    peer: AccountProviderPeer,
    kind: AccountKind = AccountKind.OAUTH,
    *,
    keys: tuple[MasterKey, ...] = (ONE,),
    clock: LiveClock | None = None,
    cache: AccountCache | None = None,
) -> AsyncGenerator[AccountSetup]:
    """Open the accounts of a process on this provider."""
    clock = clock or LiveClock(SystemClock().now())
    async with AsyncExitStack() as stack:
        flows = AccountFlows(clock, within=SHORT if peer.mood == "hangs" else timedelta(seconds=10))
        stack.push_async_callback(flows.aclose)
        store, audit = PostgresAccounts(database), audit_log(database)
        ports = TokenPorts(store, cache or NoAccountCache(), flows, clock)
        accounts = await stack.enter_async_context(Accounts(ports, AesGcmSealer(keys), audit, PAGE).open())
        provider = provider_at(peer, kind)
        accounts.reload([provider], {ISSUER})
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=25))
        yield AccountSetup(accounts, provider, peer, clock, audit, http, store)


@pytest.mark.parametrize("kind", list(AccountKind))
async def test_an_account_is_connected_used_and_disconnected(kind: AccountKind, database: Database) -> None:
    async with open_setup(database, kind) as at:
        ann, eve = await new_member(database), await new_member(database)
        await at.connect(ann)
        assert at.peer.accepts(await at.token(ann))
        (account,) = await at.accounts.list_(ann)
        assert (account.provider, account.state, account.scopes) == (
            "vendor",
            AccountState.CONNECTED,
            at.provider.scopes,
        )
        assert await at.accounts.list_(eve) == ()
        with pytest.raises(AccountNeededError):
            await at.token(eve)
        with pytest.raises(NotFoundError):
            await at.accounts.disconnect(eve, "vendor")
        token = await at.token(ann)
        done = await at.accounts.disconnect(ann, "vendor")
        # OpenRouter has no way to revoke a key, and that is told rather than claimed.
        can_revoke = kind is not AccountKind.OPENROUTER
        assert (done.is_revoked, at.peer.accepts(token)) == (can_revoke, not can_revoke)
        with pytest.raises(AccountNeededError):
            await at.token(ann)
        assert await at.actions(ann) == [AuditAction.ACCOUNT_CONNECTED, AuditAction.ACCOUNT_DISCONNECTED]


async def test_googles_refresh_token_is_asked_for(database: Database) -> None:
    async with open_setup(database, AccountKind.GOOGLE) as at:
        begun = await at.accounts.begin(await new_member(database), "vendor", BACK)
    query = parse_qs(urlsplit(begun.url).query)
    assert (query["access_type"], query["prompt"]) == (["offline"], ["consent"])


@pytest.mark.parametrize(("scope", "prompt"), [("offline_access", ["consent"]), ("offline", None)])
async def test_consent_is_asked_for_where_a_refresh_token_depends_on_it(
    scope: str, prompt: list[str] | None, database: Database
) -> None:
    async with open_setup(database) as at:
        at.accounts.reload([replace(at.provider, scopes=("models", scope))])
        begun = await at.accounts.begin(await new_member(database), "vendor", BACK)
    query = parse_qs(urlsplit(begun.url).query)
    assert (query["scope"], query.get("prompt")) == ([f"models {scope}"], prompt)


async def deny(at: AccountSetup) -> None:
    at.peer.lies.denies = True


async def change_state(at: AccountSetup) -> None:
    at.peer.lies.state = "another"


async def change_issuer(at: AccountSetup) -> None:
    at.peer.lies.iss = "https://another.example.com"


async def leave_issuer_out(at: AccountSetup) -> None:
    at.peer.lies.leaves_iss_out = True


async def withhold(at: AccountSetup) -> None:
    at.peer.lies.withholds = "models"


@pytest.mark.parametrize("lie", [deny, change_state, change_issuer, leave_issuer_out, withhold])
async def test_an_answer_that_is_not_a_consent_connects_nothing(
    lie: Callable[[AccountSetup], Awaitable[None]], database: Database
) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await lie(at)
        with pytest.raises(NotAuthenticatedError) as refused:
            await at.connect(ann)
        assert await at.accounts.list_(ann) == ()
        # A scope that was not granted is named, and what was granted is given back.
        assert ("models" in str(refused.value)) is (lie is withhold)
        assert any(exchange.path == "/revoke" for exchange in at.peer.exchanges) is (lie is withhold)


async def test_a_server_without_s256_is_refused(database: Database) -> None:
    async with open_setup(database) as at:
        at.peer.lies.metadata["code_challenge_methods_supported"] = ["plain"]
        with pytest.raises(NotAuthenticatedError, match="S256"):
            await at.accounts.begin(await new_member(database), "vendor", BACK)


@pytest.mark.parametrize("kind", list(AccountKind))
async def test_a_code_serves_once_and_for_who_began(kind: AccountKind, database: Database) -> None:
    async with open_setup(database, kind) as at:
        ann, eve = await new_member(database), await new_member(database)
        begun, others = [await at.accounts.begin(who, "vendor", BACK) for who in (ann, eve)]
        answer = await at.consent(begun)
        with pytest.raises(NotAuthenticatedError):
            await at.accounts.finish(eve, "vendor", replace(others, state=begun.state), answer, BACK)
        answer = await at.consent(begun)
        await at.accounts.finish(ann, "vendor", begun, answer, BACK)
        with pytest.raises(NotAuthenticatedError):
            await at.accounts.finish(eve, "vendor", begun, answer, BACK)
        assert await at.accounts.list_(eve) == ()


async def test_a_token_is_renewed_before_it_expires_and_the_old_one_serves_meanwhile(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        first = await at.token(ann)
        at.clock.advance(timedelta(seconds=539))
        assert (await at.token(ann), at.peer.renewals) == (first, 0)
        at.clock.advance(timedelta(seconds=2))
        assert await at.token(ann) == first
        await at.peer.received(path="/token", content="refresh_token")
        renewed = await until_changed(at, ann, first)
        assert (at.peer.accepts(renewed), at.peer.renewals) == (True, 1)


async def until_changed(at: AccountSetup, who: Principal, old: str) -> str:
    """Wait for the renewal that runs beside."""
    while (token := await at.token(who)) == old:
        await SystemClock().sleep(MOMENT)
    return token


async def test_replicas_renew_a_token_once_and_all_use_it(database: Database) -> None:
    async with open_setup(database) as one, another(database, one.peer, clock=one.clock) as two:
        ann = await new_member(database)
        await one.connect(ann)
        one.clock.advance(timedelta(seconds=700))
        tokens = await asyncio.gather(*(at.token(ann) for at in (one, two) * 5))  # noqa: TID251  # all at once
        assert (len(set(tokens)), one.peer.renewals, one.peer.families_ended) == (1, 1, 0)
        assert one.peer.accepts(tokens[0])


async def test_who_lost_the_race_reads_what_the_winner_wrote(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        stale = await at.accounts.available(ann)
        at.clock.advance(timedelta(seconds=700))
        renewed = await at.token(ann)
        # What was read before the renewal has the old refresh token: used again, it would end the whole family.
        assert (await at.accounts.token(ann, stale, "vendor")).value.get_secret_value() == renewed
        assert (at.peer.renewals, at.peer.families_ended, at.peer.accepts(renewed)) == (1, 0, True)


async def test_a_refresh_token_that_is_not_rotated_serves_again(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        at.peer.rotates = False
        for renewals in (1, 2):
            at.clock.advance(timedelta(seconds=700))
            assert at.peer.accepts(await at.token(ann))
            assert at.peer.renewals == renewals


@pytest.mark.parametrize("mood", ["fails", "limits", "nonsense", "hangs"])
async def test_a_provider_in_trouble_revokes_nothing(mood: str, database: Database) -> None:
    async with AccountProviderPeer() as peer, another(database, peer) as before:
        ann = await new_member(database)
        await before.connect(ann)
        first = await before.token(ann)
        peer.mood = mood  # type: ignore[assignment]  # one of them
        async with another(database, peer, clock=before.clock) as at:
            at.clock.advance(timedelta(seconds=560))
            assert await at.token(ann) == first
            at.clock.advance(timedelta(seconds=100))
            with pytest.raises(BackendError) as failed:
                await at.token(ann)
            assert failed.value.fault is BackendFault.CONNECTION
            assert "stays connected" in failed.value.next_step
            assert [account.state for account in await at.accounts.list_(ann)] == [AccountState.CONNECTED]
            peer.mood = "well"
            assert peer.accepts(await at.token(ann))


async def test_a_refused_refresh_token_revokes_the_account_and_its_user_is_asked_again(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        at.peer.end_all()
        at.clock.advance(timedelta(seconds=700))
        with pytest.raises(AccountNeededError, match="not accepted there any more"):
            await at.token(ann)
        with pytest.raises(AccountNeededError, match="not accepted there any more") as refused:
            await at.token(ann)
        assert refused.value.provider == "vendor"
        assert "accounts connect vendor" in refused.value.next_step
        assert ([account.state for account in await at.accounts.list_(ann)], at.peer.renewals) == (
            [AccountState.REVOKED],
            1,
        )
        assert await at.actions(ann) == [AuditAction.ACCOUNT_CONNECTED, AuditAction.ACCOUNT_REVOKED]
        await at.connect(ann)
        assert at.peer.accepts(await at.token(ann))


async def test_a_token_without_a_refresh_token_ends_when_it_expires(database: Database) -> None:
    async with open_setup(database, AccountKind.OPENROUTER) as at:
        ann = await new_member(database)
        await at.connect(ann)
        at.clock.advance(timedelta(days=3000))
        assert at.peer.accepts(await at.token(ann))


async def test_tokens_that_are_renewed_while_the_account_is_disconnected_are_given_back(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        at.clock.advance(timedelta(seconds=700))
        (stored,) = (await at.store.find(ann.user_id)).values()
        at.peer.meanwhile = lambda: at.store.remove(stored)
        with pytest.raises(AccountNeededError):
            await at.token(ann)
        revoked = await at.peer.received(path="/revoke")
        assert b"refresh-" in revoked.content
        assert (await at.store.find(ann.user_id), at.peer.renewals) == ({}, 1)


async def test_a_disconnect_that_lost_against_a_renewal_is_not_told_as_done(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)

        class OvertakenAccounts(PostgresAccounts):
            """A database where the tokens are renewed between the reading of the row and its change."""

            @override
            async def remove(self, stored: SealedAccount) -> bool:
                at.clock.advance(timedelta(seconds=700))
                await at.token(ann)
                return await super().remove(stored)

        flows = AccountFlows(at.clock)
        ports = TokenPorts(OvertakenAccounts(database), NoAccountCache(), flows, at.clock)
        with pytest.raises(ConflictError):
            await Accounts(ports, AesGcmSealer((ONE,)), at.audit).disconnect(ann, "vendor")
        await flows.aclose()
        assert at.peer.accepts(await at.token(ann))
        assert AuditAction.ACCOUNT_DISCONNECTED not in await at.actions(ann)


async def test_a_caller_who_leaves_does_not_lose_the_new_refresh_token(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        at.clock.advance(timedelta(seconds=700))
        asking = asyncio.ensure_future(at.token(ann))
        await at.peer.received(path="/token", content="refresh_token")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert at.peer.accepts(await at.token(ann))
        assert (at.peer.renewals, at.peer.families_ended) == (1, 0)


async def test_who_may_not_manage_keys_connects_nothing(database: Database) -> None:
    async with open_setup(database) as at:
        ann = replace(await new_member(database), scopes=frozenset({TokenScope.CHAT}))
        begun = LoginBegun(issuer=at.peer.origin, url="", state="s", verifier="v")
        with pytest.raises(PermissionDeniedError):
            await at.accounts.available(replace(ann, scopes=frozenset({TokenScope.READ})))
        for attempt in (
            at.accounts.begin(ann, "vendor", BACK),
            at.accounts.finish(ann, "vendor", begun, LoginAnswer(), BACK),
            at.accounts.list_(ann),
            at.accounts.disconnect(ann, "vendor"),
        ):
            with pytest.raises(PermissionDeniedError):
                await attempt


async def test_a_provider_that_is_away_or_unknown_is_told(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        with pytest.raises(NotFoundError, match="there are: vendor"):
            await at.accounts.begin(ann, "nobody", BACK)
        await at.peer.stop()
        with pytest.raises(IssuerUnavailableError):
            await at.accounts.begin(ann, "vendor", BACK)


@pytest.mark.parametrize(
    ("via", "told"),
    [
        pytest.param(ISSUER, PAGE, id="signs-in-on-the-page"),
        pytest.param("https://another.example", COMMAND, id="signs-in-elsewhere"),
        pytest.param("local", COMMAND, id="the-machines-user"),
        pytest.param(f"{VIA_PERSONAL}1", f"{PAGE} or {COMMAND}", id="a-personal-token"),
    ],
)
async def test_who_needs_an_account_is_told_where_they_connect_one(via: str, told: str, database: Database) -> None:
    async with open_setup(database) as at:
        ann = replace(await new_member(database), via=via)
        with pytest.raises(AccountNeededError) as missing:
            await at.token(ann)
        await at.connect(ann)
        at.peer.end_all()
        at.clock.advance(timedelta(seconds=700))
        with pytest.raises(AccountNeededError, match="not accepted there any more") as revoked:
            await at.token(ann)
        step = f"Connect it ({told}), then send the message again."
        assert [missing.value.next_step, revoked.value.next_step] == [step, step]
        at.accounts.reload([at.provider])  # no issuer has a client_id any more
        with pytest.raises(AccountNeededError) as alone:
            await at.token(ann)
        assert COMMAND in alone.value.next_step


async def test_without_a_master_key_nothing_is_connected_or_looked_for(database: Database) -> None:
    async with AccountProviderPeer() as peer:
        clock = SystemClock()
        ports = TokenPorts(PostgresAccounts(database), NoAccountCache(), AccountFlows(clock), clock)
        accounts, ann = Accounts(ports, None, audit_log(database)), await new_member(database)
        accounts.reload([provider_at(peer)])
        with pytest.raises(ConfigurationError, match="AGENTAPI_MASTER_KEY"):
            await accounts.begin(ann, "vendor", BACK)
        assert (await accounts.available(ann)).providers == {}
        assert peer.exchanges == []


@pytest.mark.parametrize("moved_to", ["another user", "another provider"])
async def test_tokens_that_were_moved_do_not_open(moved_to: str, database: Database) -> None:
    async with open_setup(database) as at:
        ann, eve = await new_member(database), await new_member(database)
        await at.connect(ann)
        (stored,) = (await at.store.find(ann.user_id)).values()
        who, provider = (eve, "vendor") if moved_to == "another user" else (ann, "bank")
        await at.store.put(replace(stored, account=replace(stored.account, user_id=who.user_id, provider=provider)))
        at.accounts.reload([at.provider, replace(at.provider, name="bank")])
        available = await at.accounts.available(who)
        with pytest.raises(StoreError):
            await at.accounts.token(who, available, provider)


def not_opened(master_key: str, done: Rotation) -> set[tuple[UUID, bool]]:
    """Return whose accounts a rotation left as they were, and whether their key's id is given."""
    left = [each for each in done.unopened if each.master_key == master_key]
    return {(UUID(each.name.rpartition(" ")[2]), each.is_key_given) for each in left}


async def test_accounts_are_sealed_again_with_a_new_master_key(database: Database) -> None:
    async with open_setup(database) as at:
        ann, bob = await new_member(database), await new_member(database)
        for who in (ann, bob):
            await at.connect(who)
        token = await at.token(ann)
        async with another(database, at.peer, keys=(TWO,)) as alone:
            with pytest.raises(ConfigurationError):
                await alone.token(ann)
            assert not_opened("one", await alone.accounts.rotate()) >= {(ann.user_id, False), (bob.user_id, False)}
        async with another(database, at.peer, keys=(MasterKey("one", TWO.value),)) as alone:
            assert not_opened("one", await alone.accounts.rotate()) >= {(ann.user_id, True), (bob.user_id, True)}
        async with another(database, at.peer, keys=(TWO, ONE)) as both:
            assert (await both.accounts.rotate()).sealed >= 2
            assert (await both.accounts.rotate()).sealed == 0
        async with another(database, at.peer, keys=(TWO,)) as alone:
            assert await alone.token(ann) == token


async def test_an_account_is_of_its_user_in_all_of_their_organisations(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        elsewhere = replace(ann, org_id=(await new_member(database)).org_id)
        assert await at.token(elsewhere) == await at.token(ann)


async def test_no_error_tells_a_token(database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        (stored,) = (await at.store.find(ann.user_id)).values()
        token = await at.token(ann)
        assert token not in repr((stored, await at.accounts.available(ann)))
        at.peer.mood = "fails"
        at.clock.advance(timedelta(seconds=700))
        with pytest.raises(AgentApiError) as failed:
            await at.token(ann)
        assert token not in f"{failed.value!r}"
