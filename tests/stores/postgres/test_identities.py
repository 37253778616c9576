"""Signing in over a real database: whose token leads to which account, and that nobody gets another's."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import ConfigurationError, PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, UserId, new_id
from agentapi_mcp.core.access.members import Memberships
from agentapi_mcp.core.access.models import Issuer, Newcomers, SubjectIs, TokenClaims
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.identity.principals import Principal, Role, TokenScope
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.members import PostgresMembers
from agentapi_mcp.stores.postgres.migrate import migrate
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.supabase import APP, OWNER, Project

ACME = OrgId(UUID("b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10"))
ADMIN = frozenset({"admin"})
ALICE, BOB = UUID("6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01"), UUID("0c9be6a4-31cf-4d86-9a55-3b1f0a9c6e02")


def claims(subject: str | None = None, /, **changed: object) -> TokenClaims:
    """Say what a token of a new issuer says."""
    issuer = Issuer(issuer=f"https://{new_id().hex}.example", newcomers=Newcomers.PERSONAL)
    said = TokenClaims(
        issuer=issuer,
        subject=subject or new_id().hex,
        scopes=frozenset({"chat", "read", "edit"}),
        expires_at=datetime.now(UTC),
    )
    return replace(said, **changed)


@pytest.fixture
def sign_ins(database: Database) -> SignIns:
    return SignIns(PostgresIdentities(database), audit_log(database))


async def test_a_first_sign_in_makes_an_account_and_the_next_ones_find_it(sign_ins: SignIns) -> None:
    first = claims(email=f"{new_id().hex}@example.com", name="Ann")
    principal = await sign_ins.principal_of(first)
    assert (principal.role, principal.scopes) == (Role.OWNER, {TokenScope.CHAT, TokenScope.READ, TokenScope.EDIT})
    assert await sign_ins.principal_of(first) == principal
    again = replace(first, issuer=replace(first.issuer, newcomers=Newcomers.NONE))
    assert await sign_ins.principal_of(again) == principal


async def test_many_first_sign_ins_at_once_make_one_account(sign_ins: SignIns) -> None:
    first = claims()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sign_ins.principal_of(first)) for _ in range(8)]
    assert len({task.result() for task in tasks}) == 1


async def test_the_same_subject_of_another_issuer_is_somebody_else(sign_ins: SignIns) -> None:
    one, two = claims("user-1"), claims("user-1")
    assert (await sign_ins.principal_of(one)).user_id != (await sign_ins.principal_of(two)).user_id


async def test_who_is_not_expected_is_told_so_and_nothing_is_made(sign_ins: SignIns, database: Database) -> None:
    stranger = claims(email="eve@example.com")
    stranger = replace(stranger, issuer=replace(stranger.issuer, newcomers=Newcomers.NONE))
    with pytest.raises(PermissionDeniedError, match="no account here"):
        await sign_ins.principal_of(stranger)
    async with database.as_system("test") as connection:
        assert (
            await connection.fetchval(
                "SELECT count(*) FROM agentapi.identities WHERE issuer = $1", stranger.issuer.issuer
            )
            == 0
        )


async def test_a_domain_leads_into_its_organisation_when_the_issuer_verified_the_address(sign_ins: SignIns) -> None:
    owner = await sign_ins.principal_of(claims())
    domain = f"{new_id().hex}.example"
    employer = Issuer(issuer=f"https://{domain}", newcomers=Newcomers.DOMAIN, domains={domain: owner.org_id})
    principal = await sign_ins.principal_of(claims(issuer=employer, email=f"bo@{domain}"))
    assert (principal.org_id, principal.role) == (owner.org_id, Role.MEMBER)
    for email in (None, f"eve@not-{domain}", f"eve@{domain}.evil.example"):
        with pytest.raises(PermissionDeniedError):
            await sign_ins.principal_of(claims(issuer=employer, email=email))


async def invite(database: Database, owner: Principal, email: str, role: Role = Role.MEMBER) -> None:
    await Memberships(PostgresMembers(database), SystemClock(), audit_log(database)).invite(owner, email, role)


@pytest.mark.parametrize("newcomers", [Newcomers.INVITED, Newcomers.DOMAIN])
async def test_an_invitation_leads_into_its_organisation_once(
    newcomers: Newcomers, sign_ins: SignIns, database: Database
) -> None:
    owner, email = await sign_ins.principal_of(claims(scopes=ADMIN)), f"{new_id().hex}@example.com"
    await invite(database, owner, email.upper(), Role.ADMIN)
    issuer = Issuer(issuer=f"https://{new_id().hex}.example", newcomers=newcomers)
    for strange in (claims(issuer=issuer), claims(issuer=issuer, email=f"x{email}")):
        with pytest.raises(PermissionDeniedError, match="no account here"):
            await sign_ins.principal_of(strange)
    for distrusted in (Newcomers.NONE, Newcomers.PERSONAL):
        elsewhere = claims(email=email, issuer=replace(issuer, issuer=f"{issuer.issuer}/1", newcomers=distrusted))
        with suppress(PermissionDeniedError):
            assert (await sign_ins.principal_of(elsewhere)).org_id != owner.org_id
    expected = claims(issuer=issuer, email=email, name="Bo")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sign_ins.principal_of(expected)) for _ in range(4)]
    assert {(task.result().org_id, task.result().role) for task in tasks} == {(owner.org_id, Role.ADMIN)}
    assert len({task.result().user_id for task in tasks}) == 1
    with pytest.raises(PermissionDeniedError):
        await sign_ins.principal_of(replace(expected, subject="another"))


async def test_who_is_in_no_organisation_any_more_comes_in_by_an_invitation(
    sign_ins: SignIns, database: Database
) -> None:
    owner, email = await sign_ins.principal_of(claims(scopes=ADMIN)), f"{new_id().hex}@example.com"
    issuer = Issuer(issuer=f"https://{new_id().hex}.example", newcomers=Newcomers.INVITED)
    bo, memberships = (
        claims(issuer=issuer, email=email),
        Memberships(PostgresMembers(database), SystemClock(), audit_log(database)),
    )
    await invite(database, owner, email)
    first = await sign_ins.principal_of(bo)
    await memberships.remove(owner, email)
    with pytest.raises(PermissionDeniedError, match="no organisation here"):
        await sign_ins.principal_of(bo)
    await invite(database, owner, email, Role.VIEWER)
    again = await sign_ins.principal_of(bo)
    assert (again.user_id, again.org_id, again.role) == (first.user_id, owner.org_id, Role.VIEWER)


async def test_an_invitation_that_is_too_old_or_taken_back_lets_nobody_in(
    sign_ins: SignIns, database: Database
) -> None:
    owner, email = await sign_ins.principal_of(claims(scopes=ADMIN)), f"{new_id().hex}@example.com"
    bo = claims(issuer=Issuer(issuer=f"https://{new_id().hex}.example", newcomers=Newcomers.INVITED), email=email)
    await invite(database, owner, email)
    async with database.as_system("test") as connection:
        await connection.execute("UPDATE agentapi.invitations SET expires_at = now() WHERE email = $1", email)
    with pytest.raises(PermissionDeniedError):
        await sign_ins.principal_of(bo)
    await invite(database, owner, email)
    await Memberships(PostgresMembers(database), SystemClock(), audit_log(database)).withdraw(owner, email)
    with pytest.raises(PermissionDeniedError):
        await sign_ins.principal_of(bo)


async def test_an_email_leads_to_an_account_only_where_it_is_trusted_and_free(
    sign_ins: SignIns, database: Database
) -> None:
    email, user_id = f"{new_id().hex}@Example.com", new_id()
    owner = await sign_ins.principal_of(claims())
    async with database.as_system("test") as connection:
        await connection.execute("INSERT INTO public.profiles (id, email) VALUES ($1, $2)", user_id, email)
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'admin')",
            owner.org_id,
            user_id,
        )
    distrusted = await sign_ins.principal_of(claims(email=email.lower()))
    assert distrusted.user_id != user_id
    trusted = claims(email=email.lower())
    trusted = replace(trusted, issuer=replace(trusted.issuer, trusts_email=True))
    found = await sign_ins.principal_of(trusted)
    assert (found.user_id, found.role) == (user_id, Role.ADMIN)
    second = replace(trusted, subject="another")
    assert (await sign_ins.principal_of(second)).user_id != found.user_id


async def test_an_email_leads_to_no_account_that_another_issuer_has(sign_ins: SignIns, database: Database) -> None:
    email, user_id = f"{new_id().hex}@example.com", new_id()
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.profiles (id, email, workos_id) VALUES ($1, $2, $3)", user_id, email, new_id().hex
        )
    someone = claims(email=email)
    someone = replace(someone, issuer=replace(someone.issuer, trusts_email=True))
    assert (await sign_ins.principal_of(someone)).user_id != user_id


async def test_a_membership_that_was_taken_away_is_gone_at_once(sign_ins: SignIns, database: Database) -> None:
    someone = claims()
    principal = await sign_ins.principal_of(someone)
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.organization_members SET role = 'viewer' WHERE user_id = $1", principal.user_id
        )
    assert (await sign_ins.principal_of(someone)).role is Role.VIEWER
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", principal.user_id)
    with pytest.raises(PermissionDeniedError, match="member of no organisation"):
        await sign_ins.principal_of(someone)


async def test_a_chosen_organisation_counts_only_with_a_membership(sign_ins: SignIns, database: Database) -> None:
    someone, other = claims(), await sign_ins.principal_of(claims())
    principal = await sign_ins.principal_of(someone)
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.profiles SET current_organization_id = $2 WHERE id = $1", principal.user_id, other.org_id
        )
    assert (await sign_ins.principal_of(someone)).org_id == principal.org_id
    bound = replace(someone, organization=str(other.org_id))
    with pytest.raises(PermissionDeniedError, match="no member"):
        await sign_ins.principal_of(bound)
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'member')",
            other.org_id,
            principal.user_id,
        )
    assert (await sign_ins.principal_of(someone)).org_id == other.org_id
    assert (
        await sign_ins.principal_of(replace(someone, organization=str(principal.org_id)))
    ).org_id == principal.org_id


@pytest.mark.parametrize(
    ("scopes", "needed", "left"),
    [
        ({"chat"}, True, {TokenScope.CHAT}),
        ({"agentapi:read", "openid"}, True, {TokenScope.READ}),
        ({"openid"}, True, set[TokenScope]()),
        (set[str](), False, None),
        ({"read"}, False, {TokenScope.READ}),
    ],
)
async def test_scopes_narrow(sign_ins: SignIns, scopes: set[str], needed: bool, left: set[TokenScope] | None) -> None:  # noqa: FBT001  # a case
    someone = claims(scopes=frozenset(scopes))
    someone = replace(someone, issuer=replace(someone.issuer, needs_scopes=needed))
    assert (await sign_ins.principal_of(someone)).scopes == left


async def test_profiles_that_were_there_are_found_by_their_own_issuer_alone(project: Project) -> None:
    await migrate(project.owner, program=VERSION, grant_to=APP)
    async with open_database(RemoteServer(project.app), PoolOptions()) as database:
        sign_ins = SignIns(PostgresIdentities(database), audit_log(database))
        workos = Issuer(issuer="https://api.workos.example", subject_is=SubjectIs.WORKOS_ID)
        supabase = Issuer(issuer="https://p.supabase.example/auth/v1", subject_is=SubjectIs.PROFILE_ID)
        evil = Issuer(issuer="https://evil.example")
        alice = await sign_ins.principal_of(claims("user_01A", issuer=workos, scopes=ADMIN))
        assert (alice.user_id, alice.org_id, alice.role) == (ALICE, ACME, Role.OWNER)
        bob = await sign_ins.principal_of(claims(str(BOB), issuer=supabase))
        assert (bob.user_id, bob.org_id, bob.role) == (BOB, ACME, Role.VIEWER)  # `billing` is none of our roles
        with pytest.raises(PermissionDeniedError, match="no account here"):
            await sign_ins.principal_of(claims())  # for whom nobody is made in others' tables
        memberships = Memberships(PostgresMembers(database), SystemClock(), audit_log(database))
        assert {member.user_id for member in (await memberships.list_(alice)).members} == {ALICE, BOB}
        for change in (
            memberships.invite(alice, "eve@example.com", Role.MEMBER),
            memberships.remove(alice, str(BOB)),
            memberships.create_organization(alice, "Another"),
        ):
            with pytest.raises(ConfigurationError, match="had organisations before"):
                await change
        for stranger in (
            claims("user_01A", issuer=evil),
            claims("user_01A", issuer=supabase),
            claims(str(BOB), issuer=workos),
            claims(str(BOB), issuer=evil),
            claims("user_01B", issuer=workos),
            claims(str(new_id()), issuer=supabase),
        ):
            with pytest.raises(PermissionDeniedError):
                await sign_ins.principal_of(stranger)


@pytest.mark.parametrize("policy", ["FOR UPDATE TO authenticated USING (id = auth.uid())", "USING (id = auth.uid())"])
async def test_what_users_may_write_of_their_profile_leads_nobody_else_to_it(policy: str, project: Project) -> None:
    await project.run(f'CREATE POLICY "Users write their profile" ON public.profiles {policy}', role=OWNER)
    await migrate(project.owner, program=VERSION, grant_to=APP)
    forged = "UPDATE public.profiles SET email = 'ceo@acme.example', workos_id = {} WHERE id = auth.uid() RETURNING 1"
    assert await project.value(forged.format("'user_ceo'"), user=BOB) == 1
    workos = Issuer(issuer="https://api.workos.example", subject_is=SubjectIs.WORKOS_ID)
    trusted = Issuer(issuer="https://idp.acme.example", trusts_email=True)
    async with open_database(RemoteServer(project.app), PoolOptions()) as database:
        sign_ins = SignIns(PostgresIdentities(database), audit_log(database))
        with pytest.raises(PermissionDeniedError, match="no account here"):
            await sign_ins.principal_of(claims("user_ceo", issuer=workos))
        assert await project.value(forged.format("NULL"), user=BOB) == 1
        with pytest.raises(PermissionDeniedError, match="no account here"):
            await sign_ins.principal_of(claims(issuer=trusted, email="ceo@acme.example"))
        await project.run('DROP POLICY "Users write their profile" ON public.profiles', role=OWNER)
        assert (await sign_ins.principal_of(claims("user_01A", issuer=workos))).user_id == ALICE
        assert (await sign_ins.principal_of(claims(issuer=trusted, email="ceo@acme.example"))).user_id == BOB


async def test_one_email_leads_one_subject_to_an_account(sign_ins: SignIns, database: Database) -> None:
    owner, email, user_id = await sign_ins.principal_of(claims()), f"{new_id().hex}@example.com", new_id()
    async with database.as_system("test") as connection:
        await connection.execute("INSERT INTO public.profiles (id, email) VALUES ($1, $2)", user_id, email)
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id) VALUES ($1, $2)", owner.org_id, user_id
        )
    issuer = Issuer(issuer=f"https://{new_id().hex}.example", trusts_email=True, newcomers=Newcomers.PERSONAL)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(sign_ins.principal_of(claims(str(number), issuer=issuer, email=email)))
            for number in range(6)
        ]
    assert [task.result().user_id for task in tasks].count(UserId(user_id)) == 1


async def test_an_email_leads_to_no_account_that_has_a_workos_id(database: Database) -> None:
    identities, email, user_id = PostgresIdentities(database), f"{new_id().hex}@example.com", new_id()
    issuer = f"https://{new_id().hex}.example"
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.profiles (id, email, workos_id) VALUES ($1, $2, 'user_01A')", user_id, email
        )
    assert await identities.link_email(issuer, "subject", email) is None
    assert await identities.find(issuer, "subject") is None
    async with database.as_system("test") as connection:
        await connection.execute("UPDATE public.profiles SET workos_id = NULL WHERE id = $1", user_id)
    linked = await identities.link_email(issuer, "subject", email)
    assert linked is not None
    assert linked.user_id == user_id


async def test_nobody_but_the_program_reads_identities(database_urls: DatabaseUrls, sign_ins: SignIns) -> None:
    await sign_ins.principal_of(claims())
    connection = await asyncpg.connect(database_urls.owner)
    try:
        for role in ("anon", "authenticated"):
            said = await connection.fetchval(
                "SELECT has_any_column_privilege($1, 'agentapi.identities', 'SELECT, INSERT, UPDATE, REFERENCES')", role
            )
            assert not said
        await connection.execute("SET ROLE authenticated")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM agentapi.identities")
    finally:
        await connection.close()
