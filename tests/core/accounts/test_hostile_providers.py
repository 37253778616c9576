"""Providers that answer what none should: the account fails with words of ours, and nobody else's services end."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from typing_extensions import override

from agentapi_mcp.auth.account_flows import OAuthFlow
from agentapi_mcp.auth.fetching import HttpFetch
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.errors import BackendError, BackendFault, IssuerUnavailableError
from agentapi_mcp.core.accounts.accounts import Accounts
from agentapi_mcp.core.accounts.models import AccountProvider, AccountState, Tokens
from agentapi_mcp.core.accounts.tokens import TokenPorts
from agentapi_mcp.stores.local.accounts import NoAccountCache
from agentapi_mcp.stores.postgres.database import Database
from tests.core.accounts.test_accounts import ONE, AccountSetup, open_setup
from tests.support.members import new_member

TROUBLE = (BackendError, IssuerUnavailableError)
ODD_ADDRESSES = [
    "https://256.256.256.256/token",
    f"https://vendor.example/{'a' * 70_000}",
    "https://vendor.example:99999999/",
    "https://[::1/",
    "https://\ud800.example/",
    "https://vendor.example/\x00",
    "javascript:alert(1)",
    ["https://vendor.example/"],
    None,
]
ODD_TOKENS: list[dict[str, object]] = [
    {"refresh_token": "\ud800abc"},
    {"refresh_token": "a\0b"},
    {"refresh_token": ["a"]},
    {"access_token": "\ud800abc"},
    {"access_token": "a\nb"},
    {"scope": "models chat a\0b"},
    {"scope": "models chat \ud800"},
    {"scope": ["models", "chat"]},
    {"scope": "models chat " + " ".join(f"scope{number}" for number in range(9_000))},
    {"expires_in": -5},
    {"expires_in": 0},
    {"expires_in": 60.5},
    {"expires_in": 10**4000},
    {"expires_in": float("nan")},
    {"expires_in": float("inf")},
    {"expires_in": "9" * 5000},
]


@pytest.mark.parametrize("address", ODD_ADDRESSES, ids=lambda address: repr(address)[:40])
@pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint", "revocation_endpoint"])
async def test_an_odd_address_in_the_metadata_ends_nothing(endpoint: str, address: object, database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        await at.connect(ann)
        at.peer.lies.metadata[endpoint] = address
        at.clock.advance(timedelta(seconds=700))
        if endpoint != "revocation_endpoint":
            with pytest.raises(BackendError) as failed:
                await at.token(ann)
            assert failed.value.fault is BackendFault.CONNECTION
            with pytest.raises(IssuerUnavailableError):
                await at.accounts.begin(ann, "vendor", "http://127.0.0.1:3000/accounts/callback")
        done = await at.accounts.disconnect(ann, "vendor")
        assert not done.is_revoked
        assert await at.accounts.list_(ann) == ()


@pytest.mark.parametrize("odd", ODD_TOKENS, ids=lambda odd: repr(odd)[:40])
async def test_an_odd_answer_of_the_token_endpoint_breaks_no_account(
    odd: dict[str, object], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        at.peer.lies.tokens = odd
        with suppress(*TROUBLE):
            await at.connect(ann)
            at.clock.advance(timedelta(seconds=700))
            await at.token(ann)  # with the refresh token that was issued then
        at.peer.lies.tokens = {}
        await at.connect(ann)
        at.clock.advance(timedelta(seconds=700))
        at.peer.lies.tokens = odd
        with suppress(*TROUBLE):
            await at.token(ann)
        (account,) = await at.accounts.list_(ann)
        assert account.state is AccountState.CONNECTED
        assert len(account.scopes) <= 100
        at.peer.lies.tokens = {}
        await at.connect(ann)
        assert at.peer.accepts(await at.token(ann))
    assert "account_renewal_failed" not in caplog.messages  # that is for bugs


@pytest.mark.parametrize("kind", ["DPoP", "mac", "", None, 7])
async def test_a_token_that_is_no_bearer_token_connects_nothing(kind: object, database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        at.peer.lies.tokens = {"token_type": kind}
        with pytest.raises(IssuerUnavailableError):
            await at.connect(ann)
        assert await at.accounts.list_(ann) == ()
        at.peer.lies.tokens = {"token_type": "bEARER"}  # RFC 6749, section 5.1: in any case
        await at.connect(ann)
        assert at.peer.accepts(await at.token(ann))


@pytest.mark.parametrize("seconds", [-5, 0, 0.5, float("nan")])
async def test_a_token_that_ends_at_once_is_one_that_ends(seconds: float, database: Database) -> None:
    async with open_setup(database) as at:
        ann = await new_member(database)
        at.peer.lies.tokens = {"expires_in": seconds}
        with suppress(*TROUBLE):
            await at.connect(ann)
        assert not [account for account in await at.accounts.list_(ann) if account.expires_at is None]


class BrokenFlow(OAuthFlow):
    """A flow with a bug."""

    @override
    async def renew(self, provider: AccountProvider, tokens: Tokens) -> Tokens:
        raise RuntimeError("a bug")


@asynccontextmanager
async def broken(at: AccountSetup) -> AsyncGenerator[Accounts]:
    """Open the accounts of another process, whose renewals have a bug."""
    flow = BrokenFlow(HttpFetch(at.http), at.clock)
    ports = TokenPorts(at.store, NoAccountCache(), lambda _: flow, at.clock)
    async with Accounts(ports, AesGcmSealer((ONE,)), at.audit).open() as accounts:
        accounts.reload([at.provider])
        yield accounts


async def test_a_bug_in_a_renewal_is_logged_and_ends_neither_the_services_nor_the_lease(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_setup(database) as at, broken(at) as accounts:
        ann = await new_member(database)
        await at.connect(ann)
        at.clock.advance(timedelta(seconds=700))
        available = await accounts.available(ann)
        waiting = [accounts.token(ann, available, "vendor") for _ in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)  # noqa: TID251  # all wait for one renewal
        assert [isinstance(each, BackendError) and each.fault for each in outcomes] == [BackendFault.CONNECTION] * 3
        (logged,) = [record for record in caplog.records if record.message == "account_renewal_failed"]
        assert logged.exc_info is not None
        # Another process renews it as soon as the lease was given back, which otherwise outlasts this test.
        assert at.peer.accepts(await at.token(ann))
