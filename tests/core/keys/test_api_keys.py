"""Keys that people bring, over a real database: who may add, see and use them, and how they are sealed again."""

from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest
from pydantic import SecretStr

from agentapi_mcp.auth.master_keys import MasterKey
from agentapi_mcp.auth.sealing import AesGcmSealer
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import (
    AgentApiError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    StoreError,
)
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.core.keys.api_keys import ApiKeys, NewApiKey
from agentapi_mcp.core.keys.models import ApiKey, KeySource, ProviderKey, UnopenedSecret, key_place
from agentapi_mcp.stores.postgres.api_keys import PostgresApiKeys
from agentapi_mcp.stores.postgres.database import Database
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.clocks import ManualClock
from tests.support.members import new_member

ONE, TWO = MasterKey("one", bytes(range(32))), MasterKey("two", bytes(range(32, 64)))


def api_keys(database: Database, *keys: MasterKey) -> ApiKeys:
    return ApiKeys(PostgresApiKeys(database), AesGcmSealer(keys or [ONE]), SystemClock(), audit_log(database))


def new(value: str = "sk-or-v1-0123456789abcdef", provider: str = "openrouter", **given: str | None) -> NewApiKey:
    return NewApiKey(provider=provider, value=SecretStr(value), **given)


def found(key: ProviderKey | None) -> tuple[str, KeySource] | None:
    return None if key is None else (key.value.get_secret_value(), key.key_source)


async def resolved(keys: ApiKeys, who: Principal, provider: str, model: str | None = None) -> ProviderKey | None:
    """Find the key that a turn would use."""
    return (await keys.available(who)).find(provider, () if model is None else (model,))


async def row(database: Database, key: ApiKey) -> asyncpg.Record:
    async with database.as_system("test") as connection:
        kept = await connection.fetchrow("SELECT * FROM agentapi.user_api_keys WHERE id = $1", key.id)
    assert kept is not None
    return kept


async def test_a_key_is_used_by_its_owner_and_nobody_else(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    bob, eve = await new_member(database, ann), await new_member(database)
    await keys.add(ann, new("sk-ann-0123456789"))
    assert found(await resolved(keys, ann, "OpenRouter", "m")) == ("sk-ann-0123456789", KeySource.USER)
    assert await resolved(keys, ann, "anthropic") is None
    for other in (bob, eve, replace(ann, org_id=eve.org_id), replace(eve, org_id=ann.org_id)):
        assert await resolved(keys, other, "openrouter") is None
        assert await keys.list_(other) == ()


async def test_the_users_key_comes_before_the_organisations_and_the_models_before_the_providers(
    database: Database,
) -> None:
    keys, ann = api_keys(database), await new_member(database)
    bob, eve = await new_member(database, ann, Role.MEMBER), await new_member(database)
    await keys.add(ann, new("organisation-key"), organization=True)
    assert found(await resolved(keys, bob, "openrouter", "m")) == ("organisation-key", KeySource.ORGANIZATION)
    await keys.add(ann, new("organisation-m-key", model="m"), organization=True)
    assert found(await resolved(keys, bob, "openrouter", "m")) == ("organisation-m-key", KeySource.ORGANIZATION)
    await keys.add(bob, new("own-key-of-bob"))
    assert found(await resolved(keys, bob, "openrouter", "m")) == ("own-key-of-bob", KeySource.USER)
    await keys.add(bob, new("own-m-key-of-bob", model="m"))
    assert found(await resolved(keys, bob, "openrouter", "m")) == ("own-m-key-of-bob", KeySource.USER)
    assert found(await resolved(keys, bob, "openrouter", "n")) == ("own-key-of-bob", KeySource.USER)
    assert found(await resolved(keys, ann, "openrouter", "n")) == ("organisation-key", KeySource.ORGANIZATION)
    assert await resolved(keys, eve, "openrouter", "m") is None
    await keys.add(bob, new("newer-key-of-bob", name="newer"))
    assert found(await resolved(keys, bob, "openrouter", "n")) == ("newer-key-of-bob", KeySource.USER)


async def test_a_key_that_is_turned_off_or_removed_is_not_used(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    key = await keys.add(ann, new())
    await keys.set_active(ann, "openrouter", active=False)
    assert await resolved(keys, ann, "openrouter") is None
    assert [each.active for each in await keys.list_(ann)] == [False]
    await keys.set_active(ann, str(key.id), active=True)
    assert await resolved(keys, ann, "openrouter") is not None
    await keys.remove(ann, str(key.id))
    assert await resolved(keys, ann, "openrouter") is None
    with pytest.raises(NotFoundError):
        await keys.remove(ann, str(key.id))


async def test_nobody_reaches_anothers_key_by_its_name_or_id(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    key = await keys.add(ann, new())
    shared = await keys.add(ann, new(name="shared"), organization=True)
    for other in (await new_member(database, ann, Role.ADMIN), await new_member(database)):
        for which in (str(key.id), key.name):
            with pytest.raises(NotFoundError):
                await keys.remove(other, which)
            with pytest.raises(NotFoundError):
                await keys.set_active(other, which, active=False)
    with pytest.raises(NotFoundError):
        await keys.remove(ann, str(shared.id))
    assert await keys.list_(ann) == (key,)
    assert [each.name for each in await keys.list_(ann, organization=True)] == ["shared"]


async def test_roles_and_scopes_decide_who_may_keep_keys(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    viewer = await new_member(database, ann, Role.VIEWER)
    narrow = replace(ann, scopes=frozenset({TokenScope.CHAT, TokenScope.READ, TokenScope.EDIT}))
    member = await new_member(database, ann, Role.MEMBER)
    refused: list[tuple[Principal, bool]] = [(viewer, False), (narrow, False), (narrow, True), (member, True)]
    for principal, organization in refused:
        with pytest.raises(PermissionDeniedError):
            await keys.add(principal, new(), organization=organization)
        with pytest.raises(PermissionDeniedError):
            await keys.list_(principal, organization=organization)
        with pytest.raises(PermissionDeniedError):
            await keys.remove(principal, "openrouter", organization=organization)
    with pytest.raises(PermissionDeniedError):
        await resolved(keys, viewer, "openrouter")


@pytest.mark.parametrize(
    ("value", "ending"), [("sk-or-v1-0123", "0123"), ("sk-01234567", None), (" sk-or-v1-0123\n", "0123")]
)
async def test_the_end_of_a_long_key_is_shown_and_nothing_else(
    database: Database, value: str, ending: str | None
) -> None:
    keys, ann = api_keys(database), await new_member(database)
    key = await keys.add(ann, new(value))
    assert key.last_four == ending
    kept = await row(database, key)
    assert value.strip().encode() not in kept["sealed_key"]
    used = await resolved(keys, ann, "openrouter")
    assert found(used) == (value.strip(), KeySource.USER)
    assert value.strip() not in repr((key, used, await keys.list_(ann), new(value)))


@pytest.mark.parametrize(
    "value", ["${OPENROUTER_API_KEY}", "<YOUR_KEY_HERE>", "{{OPENROUTER_API_KEY}}", "$API_KEY_OF_OURS"]
)
async def test_a_placeholder_is_no_key_and_is_told_as_one(database: Database, value: str) -> None:
    keys, ann = api_keys(database), await new_member(database)
    with pytest.raises(InvalidRequestError, match="no API key: it is a placeholder") as refused:
        await keys.add(ann, new(value))
    assert value not in str(refused.value)


@pytest.mark.parametrize("value", ["", "short", "sk-or v1-0123456789", "sk-é0123456789", "k" * 2001, "sk-01234\x00567"])
async def test_what_is_no_key_is_refused_and_not_repeated(database: Database, value: str) -> None:
    keys, ann = api_keys(database), await new_member(database)
    with pytest.raises(InvalidRequestError, match="no API key") as refused:
        await keys.add(ann, new(value))
    assert not value or value not in str(refused.value)


async def test_a_name_is_there_once_for_each_owner(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    for organization in (False, True):
        await keys.add(ann, new(model="m"), organization=organization)
        with pytest.raises(ConflictError, match="a key named 'openrouter m'"):
            await keys.add(ann, new(model="m"), organization=organization)
    for wrong in (new(name=" "), new(provider=""), new(name="two\nlines"), new(model="m" * 101)):
        with pytest.raises(InvalidRequestError):
            await keys.add(ann, wrong)


async def test_what_was_copied_to_another_row_or_user_does_not_open(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    eve = await new_member(database, ann)
    stolen, own = await keys.add(ann, new("sk-ann-0123456789")), await keys.add(eve, new("sk-eve-0123456789"))
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE agentapi.user_api_keys SET sealed_key = "
            "(SELECT sealed_key FROM agentapi.user_api_keys WHERE id = $1) WHERE id = $2",
            stolen.id,
            own.id,
        )
    with pytest.raises(StoreError, match="not what was sealed"):
        await resolved(keys, eve, "openrouter")
    assert found(await resolved(keys, ann, "openrouter")) == ("sk-ann-0123456789", KeySource.USER)


async def test_a_row_that_was_given_to_another_user_does_not_open(
    database: Database, database_urls: DatabaseUrls
) -> None:
    keys, ann = api_keys(database), await new_member(database)
    eve = await new_member(database)
    key = await keys.add(ann, new())
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute(
            "UPDATE agentapi.user_api_keys SET user_id = $2, org_id = $3 WHERE id = $1",
            key.id,
            eve.user_id,
            eve.org_id,
        )
    finally:
        await owner.close()
    with pytest.raises(StoreError, match="not what was sealed"):
        await resolved(keys, eve, "openrouter")


async def test_a_row_that_was_given_to_another_provider_does_not_open(
    database: Database, database_urls: DatabaseUrls
) -> None:
    keys, ann = api_keys(database), await new_member(database)
    key = await keys.add(ann, new())
    owner = await asyncpg.connect(database_urls.owner)
    try:
        await owner.execute("UPDATE agentapi.user_api_keys SET provider = 'elsewhere' WHERE id = $1", key.id)
    finally:
        await owner.close()
    assert await resolved(keys, ann, "openrouter") is None
    with pytest.raises(StoreError, match="not what was sealed"):
        await resolved(keys, ann, "elsewhere")


async def test_without_a_master_key_there_are_no_keys_and_it_says_so(database: Database) -> None:
    ann = await new_member(database)
    await api_keys(database).add(ann, new())
    without = ApiKeys(PostgresApiKeys(database), None, SystemClock(), audit_log(database))
    assert await resolved(without, ann, "openrouter") is None
    for work in (without.add(ann, new(name="other")), without.rotate(ann)):
        with pytest.raises(ConfigurationError, match="AGENTAPI_MASTER_KEY_FILE"):
            await work


async def test_rotation_seals_every_key_again_and_goes_on_where_it_was(database: Database) -> None:
    ann = await new_member(database)
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM agentapi.user_api_keys")
    old, both = api_keys(database, ONE), api_keys(database, TWO, ONE)
    made = [await old.add(ann, new(f"sk-{number:012}", name=f"key {number}")) for number in range(120)]
    lost = await api_keys(database, MasterKey("lost", bytes(32))).add(ann, new("sk-lost-012345", name="lost"))
    # As if the first run had been killed after its first keys.
    sealer = AesGcmSealer([TWO])
    for key in made[:3]:
        place = key_place(ann.org_id, ann.user_id, key.id, key.provider, key.model)
        async with database.as_system("test") as connection:
            await connection.execute(
                "UPDATE agentapi.user_api_keys SET sealed_key = $2, key_id = 'two' WHERE id = $1",
                key.id,
                sealer.seal("sk-by-the-first-run", place),
            )
    done = await both.rotate(ann)
    not_opened = [UnopenedSecret(f"key {lost.id}", "lost", is_key_given=False)]
    assert (done.sealed, done.unopened) == (117, not_opened)
    again = await both.rotate(ann)
    assert (again.sealed, again.unopened) == (0, not_opened)
    assert (await row(database, lost))["key_id"] == "lost"
    await both.remove(ann, "lost")
    await both.remove(ann, "key 119")
    assert found(await resolved(api_keys(database, TWO), ann, "openrouter")) == ("sk-000000000118", KeySource.USER)
    with pytest.raises(AgentApiError):
        await resolved(old, ann, "openrouter")


async def test_a_rotation_tells_what_another_key_of_the_same_name_has_sealed(database: Database) -> None:
    ann = await new_member(database)
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM agentapi.user_api_keys")
    before = await api_keys(database, MasterKey("two", bytes(32))).add(ann, new(name="before"))
    await api_keys(database, TWO).add(ann, new(name="since"))
    done = await api_keys(database, TWO).rotate(ann)
    assert (done.sealed, done.unopened) == (0, [UnopenedSecret(f"key {before.id}", "two", is_key_given=True)])
    # Under other names, in the right order, both can be opened.
    mended = await api_keys(database, MasterKey("three", TWO.value), MasterKey("two", bytes(32))).rotate(ann)
    assert (mended.sealed, len(mended.unopened)) == (1, 1)


async def test_a_rotation_is_recorded_with_its_outcome(database: Database) -> None:
    ann = await new_member(database)
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM agentapi.user_api_keys")
    await api_keys(database, MasterKey("lost", bytes(32))).add(ann, new(name="lost"))
    audit = audit_log(database)
    keys = ApiKeys(PostgresApiKeys(database), AesGcmSealer([TWO]), SystemClock(), audit)

    async def rotated() -> list[tuple[str, str]]:
        await keys.rotate(ann)
        await audit.flush()
        async with database.as_system("test") as connection:
            rows = await connection.fetch(
                "SELECT outcome, details::text AS details FROM agentapi.audit_events "
                "WHERE user_id = $1 AND action = 'secrets_rotated' ORDER BY at",
                ann.user_id,
            )
        return [(row["outcome"], row["details"]) for row in rows]

    failed = ("failed", '{"count": 0, "reason": "not_opened"}')
    assert await rotated() == [failed]
    await keys.remove(ann, "lost")
    assert await rotated() == [failed, ("ok", '{"count": 0}')]


async def test_the_last_use_is_noted_at_most_once_a_minute(database: Database) -> None:
    clock = ManualClock(at=SystemClock().now())
    keys, ann = (
        ApiKeys(PostgresApiKeys(database), AesGcmSealer([ONE]), clock, audit_log(database, clock)),
        await new_member(database),
    )
    key = await keys.add(ann, new())

    async def use() -> object:
        used = await resolved(keys, ann, "openrouter")
        assert used is not None
        await keys.mark_used(ann, used)
        return (await row(database, key))["last_used_at"]

    first = await use()
    assert first is not None
    assert await use() == first
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE agentapi.user_api_keys SET last_used_at = now() - interval '2 minutes' WHERE id = $1", key.id
        )
    assert await use() != first
    clock.advance(timedelta(minutes=2))  # this process's clock is not believed alone
    assert (await keys.list_(ann))[0].last_used_at is not None
    before = (await row(database, key))["last_used_at"]
    assert await use() == before


async def test_nobody_but_the_program_reads_keys(database_urls: DatabaseUrls, database: Database) -> None:
    ann = await new_member(database)
    await api_keys(database).add(ann, new())
    connection = await asyncpg.connect(database_urls.owner)
    try:
        for role in ("anon", "authenticated"):
            assert not await connection.fetchval(
                "SELECT has_any_column_privilege($1, 'agentapi.user_api_keys', 'SELECT, INSERT, UPDATE, REFERENCES')",
                role,
            )
    finally:
        await connection.close()
    async with database.as_principal(ann) as mine:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await mine.fetch("SELECT sealed_key FROM agentapi.user_api_keys")


async def test_the_keys_of_a_user_or_organisation_that_goes_go_with_it(database: Database) -> None:
    keys, ann = api_keys(database), await new_member(database)
    bob = await new_member(database, ann)
    await keys.add(ann, new(), organization=True)
    key = await keys.add(bob, new())
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.profiles WHERE id = $1", bob.user_id)
        assert await connection.fetchval("SELECT count(*) FROM agentapi.user_api_keys WHERE id = $1", key.id) == 0
    assert len(await keys.list_(ann, organization=True)) == 1
