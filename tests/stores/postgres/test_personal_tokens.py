"""Personal tokens over a real database: made, used, ended, and seen by nobody but the program."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest
from hypothesis import strategies as st

from agentapi_mcp.base.errors import (
    AgentApiError,
    ConflictError,
    InvalidRequestError,
    LimitExceededError,
    NotAuthenticatedError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.models import Issuer, Newcomers, SignInRules, TokenClaims
from agentapi_mcp.core.access.personal_tokens import LONGEST_LIFETIME, MOST_TOKENS, NOT_VALID, PREFIX, PersonalTokens
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.identity.principals import Action, Exceptions, Principal, Role, TokenScope
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.personal_tokens import PostgresPersonalTokens
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.clocks import ManualClock
from tests.support.hostile import TEXTS, holds

READ, CHAT, EDIT, KEYS = TokenScope.READ, TokenScope.CHAT, TokenScope.EDIT, TokenScope.KEYS


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(database: Database, clock: ManualClock) -> PersonalTokens:
    return PersonalTokens(PostgresPersonalTokens(database), clock, SignInRules(), audit_log(database, clock))


@pytest.fixture
async def ann(database: Database, clock: ManualClock) -> Principal:
    """Return somebody who is an owner of their organisation."""
    claims = TokenClaims(
        issuer=Issuer(issuer="https://a.example", newcomers=Newcomers.PERSONAL, needs_scopes=False),
        subject=new_id().hex,
        scopes=frozenset(),
        expires_at=clock.now(),
    )
    return await SignIns(PostgresIdentities(database), audit_log(database)).principal_of(claims)


async def refusal(tokens: PersonalTokens, secret: str) -> str:
    with pytest.raises(NotAuthenticatedError) as refused:
        await tokens.principal_of(secret)
    return str(refused.value)


async def test_a_token_stands_for_who_made_it_with_no_more_than_its_scopes(
    tokens: PersonalTokens, ann: Principal, clock: ManualClock
) -> None:
    made = await tokens.create(ann, " CI ", scopes=["read", "chat"])
    principal = await tokens.principal_of(made.secret)
    assert principal == replace(ann, scopes=frozenset({READ, CHAT}))
    assert (principal.via, principal.expires_at) == (f"token:{made.token.id}", clock.now() + timedelta(days=90))
    assert made.token.name == "CI"
    assert made.secret not in repr(made)


async def test_a_token_has_a_form_that_scanners_find_and_is_no_other_ones(
    tokens: PersonalTokens, ann: Principal
) -> None:
    secrets = [(await tokens.create(ann, f"t{number}")).secret for number in range(5)]
    assert all(re.fullmatch(r"agentapi_pat_[0-9A-Za-z]{49}", secret) for secret in secrets)
    assert len({secret[len(PREFIX) : -6] for secret in secrets}) == 5
    assert [token.last_four for token in await tokens.list_(ann)] == [secret[-4:] for secret in reversed(secrets)]


async def test_what_is_kept_of_a_token_does_not_tell_it(
    tokens: PersonalTokens, ann: Principal, database_urls: DatabaseUrls
) -> None:
    made = await tokens.create(ann, "kept")
    owner = await asyncpg.connect(database_urls.owner)
    try:
        row = await owner.fetchval("SELECT t::text FROM agentapi.personal_tokens t WHERE id = $1", made.token.id)
    finally:
        await owner.close()
    kept = str(row)
    assert not [part for part in range(len(PREFIX), len(made.secret) - 5) if made.secret[part : part + 6] in kept]


async def test_scopes_are_within_those_of_who_makes_the_token(tokens: PersonalTokens, ann: Principal) -> None:
    limited = replace(ann, scopes=frozenset({READ, KEYS}))
    made = await tokens.create(limited, "narrow", scopes=["read"])
    assert (await tokens.principal_of(made.secret)).scopes == {READ}
    with pytest.raises(PermissionDeniedError) as refused:
        await tokens.create(limited, "wide", scopes=["read", "chat"])
    assert refused.value.scope == "chat"
    assert [token.name for token in await tokens.list_(ann)] == ["narrow"]


@pytest.mark.parametrize(
    "limited",
    [
        {"role": Role.VIEWER},
        {"scopes": frozenset({READ, CHAT, EDIT})},
        {"exceptions": Exceptions(denied=frozenset({Action.CREATE_TOKENS}))},
        {"via": "token:018f"},
    ],
)
async def test_who_may_make_no_tokens_makes_none(
    tokens: PersonalTokens, ann: Principal, limited: dict[str, Any]
) -> None:
    with pytest.raises(PermissionDeniedError):
        await tokens.create(replace(ann, **limited), "refused", scopes=["read"])
    assert await tokens.list_(ann) == ()


async def test_who_became_a_viewer_still_ends_their_tokens(tokens: PersonalTokens, ann: Principal) -> None:
    made, viewer = await tokens.create(ann, "earlier"), replace(ann, role=Role.VIEWER)
    assert [token.name for token in await tokens.list_(viewer)] == ["earlier"]
    await tokens.revoke(viewer, str(made.token.id))
    assert await refusal(tokens, made.secret) == NOT_VALID


async def test_a_revoked_token_is_refused_at_once(tokens: PersonalTokens, ann: Principal) -> None:
    made, other = await tokens.create(ann, "one"), await tokens.create(ann, "two")
    await tokens.principal_of(made.secret)
    await tokens.revoke(ann, str(made.token.id))
    assert await refusal(tokens, made.secret) == NOT_VALID
    await tokens.principal_of(other.secret)
    assert [token.name for token in await tokens.list_(ann)] == ["two"]
    with pytest.raises(NotFoundError):
        await tokens.revoke(ann, str(made.token.id))


async def test_a_token_that_nobody_made_is_refused_though_its_form_is_right(
    tokens: PersonalTokens, ann: Principal, database_urls: DatabaseUrls
) -> None:
    made = await tokens.create(ann, "lost")
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute("SET ROLE agentapi_system")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute("DELETE FROM agentapi.personal_tokens")
        await owner.execute("RESET ROLE")
        await owner.execute("DELETE FROM public.profiles WHERE id = $1", ann.user_id)
    finally:
        await owner.close()
    assert await refusal(tokens, made.secret) == NOT_VALID


async def test_an_expired_token_is_refused_and_gives_its_name_away(
    tokens: PersonalTokens, ann: Principal, clock: ManualClock
) -> None:
    made = await tokens.create(ann, "nightly", expires_in=timedelta(days=7))
    clock.advance(timedelta(days=7) - timedelta(seconds=1))
    await tokens.principal_of(made.secret)
    with pytest.raises(ConflictError):
        await tokens.create(ann, "nightly")
    clock.advance(timedelta(seconds=1))
    assert "expired" in await refusal(tokens, made.secret)
    again = await tokens.create(ann, "nightly")
    assert [token.id for token in await tokens.list_(ann)] == [again.token.id]


async def test_who_left_the_organisation_is_refused_and_another_role_counts_at_once(
    tokens: PersonalTokens, ann: Principal, database: Database
) -> None:
    made = await tokens.create(ann, "mine")
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.organization_members SET role = 'clerk' WHERE user_id = $1", ann.user_id
        )
    assert (await tokens.principal_of(made.secret)).role is Role.VIEWER
    tokens.reload(SignInRules(roles={"clerk": Role.ADMIN}))
    assert (await tokens.principal_of(made.secret)).role is Role.ADMIN
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", ann.user_id)
    with pytest.raises(PermissionDeniedError, match="no longer a member"):
        await tokens.principal_of(made.secret)


async def test_uses_are_noted_once_a_minute(tokens: PersonalTokens, ann: Principal, clock: ManualClock) -> None:
    made = await tokens.create(ann, "busy")

    async def used_at() -> object:
        await tokens.principal_of(made.secret)
        return (await tokens.list_(ann))[0].last_used_at

    assert (await tokens.list_(ann))[0].last_used_at is None
    first = clock.now()
    assert await used_at() == first
    clock.advance(timedelta(seconds=59))
    assert await used_at() == first
    clock.advance(timedelta(seconds=1))
    assert await used_at() == clock.now()


async def test_nobody_sees_or_revokes_another_ones_tokens(tokens: PersonalTokens, ann: Principal) -> None:
    made = await tokens.create(ann, "mine")
    for other in (replace(ann, user_id=UserId(new_id())), replace(ann, org_id=OrgId(new_id()))):
        assert await tokens.list_(other) == ()
        with pytest.raises(NotFoundError):
            await tokens.revoke(other, str(made.token.id))
    await tokens.principal_of(made.secret)


async def test_of_many_with_one_name_at_once_one_is_made(tokens: PersonalTokens, ann: Principal) -> None:
    async def make() -> bool:
        try:
            await tokens.create(ann, "same")
        except ConflictError:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(make()) for _ in range(5)]
    assert sum(task.result() for task in tasks) == 1


async def test_there_is_a_limit(tokens: PersonalTokens, ann: Principal, database: Database) -> None:
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO agentapi.personal_tokens "
            "(id, user_id, org_id, name, token_hash, last_four, scopes, created_at, expires_at) "
            "SELECT gen_random_uuid(), $1, $2, 't' || n, sha256(gen_random_uuid()::text::bytea), 'aaaa', '{}', now(), "
            "now() + interval '1 day' FROM generate_series(1, $3::int) n",
            ann.user_id,
            ann.org_id,
            MOST_TOKENS,
        )
    with pytest.raises(LimitExceededError):
        await tokens.create(ann, "one too many")


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"name": " "}, "token_name"),
        ({"name": "x" * 101}, "token_name"),
        ({"name": "a\nb"}, "token_name"),
        ({"name": "\x1b[2J"}, "token_name"),
        ({"name": "\0"}, "token_name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["read", "root"]}, "scopes"),
        ({"expires_in": timedelta(0)}, "expires_in"),
        ({"expires_in": -timedelta(days=1)}, "expires_in"),
        ({"expires_in": LONGEST_LIFETIME + timedelta(seconds=1)}, "expires_in"),
        ({"expires_in": timedelta.max}, "expires_in"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    tokens: PersonalTokens, ann: Principal, given: dict[str, Any], argument: str
) -> None:
    arguments: dict[str, Any] = {"name": "t", **given}
    with pytest.raises(InvalidRequestError) as refused:
        await tokens.create(ann, **arguments)
    assert refused.value.argument == argument
    assert await tokens.list_(ann) == ()


async def test_what_is_no_token_is_refused_before_anything_is_looked_up(
    tokens: PersonalTokens, ann: Principal, clock: ManualClock
) -> None:
    secret = (await tokens.create(ann, "near")).secret
    nothing = cast("Any", None)  # to look into
    untouched = PersonalTokens(nothing, clock, SignInRules(), nothing)
    nearly = st.integers(0, len(secret) - 1).flatmap(
        lambda place: TEXTS.map(lambda text: secret[:place] + text + secret[place + 1 :])
    )

    async def check(given: str) -> None:
        if given != secret:
            assert await refusal(untouched, given) == NOT_VALID

    also = [PREFIX, secret + " ", secret + "\n", secret.upper(), secret[:-1], PREFIX + "é" * 49, PREFIX + "0" * 49]
    await holds(nearly | TEXTS.map(lambda text: PREFIX + text), check, examples=200, also=also)
    with pytest.raises(AttributeError):
        await untouched.principal_of(secret)


async def test_nobody_but_the_program_reads_or_writes_them(
    tokens: PersonalTokens, ann: Principal, database: Database, database_urls: DatabaseUrls
) -> None:
    made = await tokens.create(ann, "hidden")
    connection = await asyncpg.connect(database_urls.owner)
    try:
        for role in ("anon", "authenticated", "agentapi_writer"):
            assert not await connection.fetchval(
                "SELECT has_table_privilege($1, 'agentapi.personal_tokens', 'SELECT, INSERT, UPDATE, DELETE') "
                "OR has_any_column_privilege($1, 'agentapi.personal_tokens', 'SELECT, INSERT, UPDATE, REFERENCES')",
                role,
            )
        # As PostgREST would, with the claims of the owner of the token.
        await connection.execute("SET ROLE authenticated")
        await connection.execute(
            "SELECT set_config('request.jwt.claims', $1, false)", f'{{"sub": "{ann.user_id}", "role": "authenticated"}}'
        )
        for attempt in (
            "SELECT id FROM agentapi.personal_tokens WHERE id = $1",
            "SELECT count(*) FROM agentapi.personal_tokens WHERE id = $1",
            "UPDATE agentapi.personal_tokens SET revoked_at = NULL WHERE id = $1",
            "DELETE FROM agentapi.personal_tokens WHERE id = $1",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(attempt, made.token.id)
    finally:
        await connection.close()
    for connecting in (database.as_principal(ann), database.as_writer(ann)):
        with pytest.raises(AgentApiError):
            async with connecting as as_ann:
                await as_ann.fetch("SELECT id FROM agentapi.personal_tokens")
