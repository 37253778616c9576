"""Programs with tokens of their own over a real database: what is declared they are, and nobody else."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentapi_mcp.base.errors import ConfigurationError, PermissionDeniedError
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.access.models import Issuer, Newcomers, Service, SubjectIs, TokenClaims
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.identity.principals import Action, Principal, Role, TokenScope
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.migrate import migrate
from tests.support.audits import audit_log
from tests.support.supabase import ACME, ALICE, APP, Project


def claims(*services: Service, **changed: Any) -> TokenClaims:  # noqa: ANN401  # whatever a token says
    """Say what a client-credentials token says; the issuer would let any newcomer in, if it were a person."""
    known = {name: changed.pop(name) for name in ("subject_is", "organizations") if name in changed}
    issuer = Issuer(
        issuer=f"https://{new_id().hex}.example",
        newcomers=Newcomers.PERSONAL,
        trusts_email=True,
        services=services,
        **known,
    )
    said: dict[str, Any] = {"issuer": issuer, "subject": "nightly", "client_id": "nightly", **changed}
    scopes = frozenset({"read", "chat"})
    return TokenClaims(scopes=scopes, expires_at=datetime.now(UTC), is_service=True, **said)


@pytest.fixture
def sign_ins(database: Database) -> SignIns:
    return SignIns(PostgresIdentities(database), audit_log(database))


@pytest.fixture
async def owner(sign_ins: SignIns) -> Principal:
    """Return the owner of an organisation."""
    return await sign_ins.principal_of(person())


def person(**changed: Any) -> TokenClaims:  # noqa: ANN401  # whatever a token says
    said = claims(subject=new_id().hex, client_id="a-web-app", **changed)
    return replace(said, is_service=False)


async def rows_of(database: Database, principal: Principal) -> tuple[str | None, list[tuple[object, str]]]:
    """Read the name and the memberships of whom a principal is."""
    async with database.as_system("test") as connection:
        name = await connection.fetchval("SELECT full_name FROM public.profiles WHERE id = $1", principal.user_id)
        rows = await connection.fetch(
            "SELECT organization_id, role FROM public.organization_members WHERE user_id = $1", principal.user_id
        )
    return name, [(row["organization_id"], row["role"]) for row in rows]


async def count_profiles(database: Database) -> int:
    async with database.as_system("test") as connection:
        return await connection.fetchval("SELECT count(*) FROM public.profiles")


async def test_a_declared_program_has_an_account_of_its_own_in_the_organisation_that_is_declared(
    sign_ins: SignIns, owner: Principal, database: Database
) -> None:
    token = claims(Service(client_id="nightly", org_id=owner.org_id, name="Nightly reports"))
    program = await sign_ins.principal_of(token)
    assert (program.org_id, program.role) == (owner.org_id, Role.MEMBER)
    assert (program.scopes, program.via) == ({TokenScope.READ, TokenScope.CHAT}, token.issuer.issuer)
    assert program.user_id != owner.user_id
    assert await rows_of(database, program) == ("Nightly reports", [(owner.org_id, "member")])
    assert await sign_ins.principal_of(token) == program


async def test_many_first_tokens_at_once_make_one_account(sign_ins: SignIns, owner: Principal) -> None:
    token = claims(Service(client_id="nightly", org_id=owner.org_id))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sign_ins.principal_of(token)) for _ in range(8)]
    assert len({task.result().user_id for task in tasks}) == 1


async def test_a_program_that_is_not_declared_is_refused_and_told_what_the_operator_must_do(
    sign_ins: SignIns, owner: Principal, database: Database
) -> None:
    before = await count_profiles(database)
    for token in (claims(), claims(Service(client_id="another", org_id=owner.org_id))):
        with pytest.raises(PermissionDeniedError, match=r"'nightly'.*\[\[issuers\.services\]\].*client_id"):
            await sign_ins.principal_of(token)
    assert await count_profiles(database) == before


async def test_a_program_never_becomes_a_person(sign_ins: SignIns, owner: Principal, database: Database) -> None:
    email, workos_id = f"{new_id().hex}@example.com", f"user_{new_id().hex}"
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.profiles SET email = $2, workos_id = $3 WHERE id = $1", owner.user_id, None, workos_id
        )
        free = new_id()
        await connection.execute("INSERT INTO public.profiles (id, email) VALUES ($1, $2)", free, email)
    service = Service(client_id="nightly", org_id=owner.org_id)
    for token in (
        claims(service, email=email),
        claims(service, subject=workos_id, subject_is=SubjectIs.WORKOS_ID),
        claims(service, subject=str(owner.user_id), subject_is=SubjectIs.PROFILE_ID),
    ):
        assert (await sign_ins.principal_of(token)).user_id not in {owner.user_id, free}
    ann = person()
    signed_in = await sign_ins.principal_of(ann)
    as_program = replace(
        ann, is_service=True, issuer=replace(ann.issuer, services=(replace(service, client_id="a-web-app"),))
    )
    with pytest.raises(PermissionDeniedError, match="is a person's"):
        await sign_ins.principal_of(as_program)
    assert await sign_ins.principal_of(ann) == signed_in


async def test_a_person_never_becomes_a_program(sign_ins: SignIns, owner: Principal) -> None:
    token = claims(Service(client_id="nightly", org_id=owner.org_id))
    program = await sign_ins.principal_of(token)
    with pytest.raises(PermissionDeniedError, match=r"is a program's.*\[\[issuers\.services\]\]"):
        await sign_ins.principal_of(replace(token, is_service=False, client_id="a-web-app"))
    by_id = replace(person(subject_is=SubjectIs.PROFILE_ID), subject=str(program.user_id))
    for _ in range(2):  # when it is linked, and when it has been
        with pytest.raises(PermissionDeniedError, match="is a program's"):
            await sign_ins.principal_of(by_id)
    assert await sign_ins.principal_of(token) == program


async def test_a_subject_is_declared_before_its_client(sign_ins: SignIns, owner: Principal, database: Database) -> None:
    by_client = Service(client_id="nightly", org_id=owner.org_id, role=Role.ADMIN)
    by_subject = Service(subject="reports", org_id=owner.org_id, role=Role.VIEWER)
    for services in ((by_client, by_subject), (by_subject, by_client)):
        token = claims(*services, subject="reports")
        program = await sign_ins.principal_of(token)
        assert program.role is Role.VIEWER
        assert await rows_of(database, program) == ("reports", [(owner.org_id, "viewer")])
        assert (await sign_ins.principal_of(replace(token, subject="others"))).role is Role.ADMIN


async def test_another_declaration_takes_effect_at_once(
    sign_ins: SignIns, owner: Principal, database: Database
) -> None:
    service = Service(client_id="nightly", org_id=owner.org_id)
    token, elsewhere = claims(service), await sign_ins.principal_of(person())

    async def declared(**changed: Any) -> Principal:  # noqa: ANN401  # of a service
        issuer = replace(token.issuer, services=(replace(service, **changed),))
        return await sign_ins.principal_of(replace(token, issuer=issuer))

    first = await sign_ins.principal_of(token)
    viewer = await declared(role=Role.VIEWER)
    assert (viewer.user_id, viewer.role) == (first.user_id, Role.VIEWER)
    moved = await declared(org_id=elsewhere.org_id, role=Role.ADMIN)
    assert (moved.user_id, moved.org_id, moved.role) == (first.user_id, elsewhere.org_id, Role.ADMIN)
    assert (await rows_of(database, moved))[1] == [(elsewhere.org_id, "admin")]


async def test_a_row_that_says_otherwise_than_the_declaration_is_put_right(
    sign_ins: SignIns, owner: Principal, database: Database
) -> None:
    token = claims(Service(client_id="nightly", org_id=owner.org_id))
    program = await sign_ins.principal_of(token)
    async with database.as_system("test") as connection:
        await connection.execute(
            "UPDATE public.organization_members SET role = 'owner', permissions = $2::jsonb WHERE user_id = $1",
            program.user_id,
            '{"agentapi": {"sessions:chat": false}}',
        )
    again = await sign_ins.principal_of(token, {"member": Role.OWNER})
    assert (again.role, again.exceptions.denied) == (Role.MEMBER, {Action.CHAT})
    assert (await rows_of(database, program))[1] == [(owner.org_id, "member")]
    async with database.as_system("test") as connection:
        await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", program.user_id)
    assert (await sign_ins.principal_of(token)).user_id == program.user_id


async def test_a_token_for_another_organisation_than_the_declared_one_is_refused(
    sign_ins: SignIns, owner: Principal
) -> None:
    service, known = Service(client_id="nightly", org_id=owner.org_id), {"org_a": owner.org_id}
    assert (
        await sign_ins.principal_of(claims(service, organization="org_a", organizations=known))
    ).org_id == owner.org_id
    for other in ("org_b", str(new_id())):
        with pytest.raises(PermissionDeniedError, match="no member"):
            await sign_ins.principal_of(claims(service, organization=other, organizations=known))


async def test_an_organisation_that_is_not_there_is_told(sign_ins: SignIns, database: Database) -> None:
    before = await count_profiles(database)
    with pytest.raises(ConfigurationError, match="not in this database"):
        await sign_ins.principal_of(claims(Service(client_id="nightly", org_id=OrgId(new_id()))))
    assert await count_profiles(database) == before


async def test_no_profile_is_made_in_somebody_elses_database_but_one_of_theirs_is_taken(project: Project) -> None:
    await migrate(project.owner, program=VERSION, grant_to=APP)
    token = claims(Service(client_id="nightly", org_id=OrgId(ACME), role=Role.VIEWER))
    async with open_database(RemoteServer(project.app), PoolOptions()) as database:
        sign_ins = SignIns(PostgresIdentities(database), audit_log(database))
        with pytest.raises(ConfigurationError, match="profiles of its own"):
            await sign_ins.principal_of(token)
        row = f"('{token.issuer.issuer}', 'nightly', '{ALICE}'"
        await project.run(f"INSERT INTO agentapi.identities (issuer, subject, user_id) VALUES {row})")  # noqa: S608  # of this test
        with pytest.raises(PermissionDeniedError, match="is a person's"):
            await sign_ins.principal_of(token)
        await project.run("UPDATE agentapi.identities SET is_service = true")
        program = await sign_ins.principal_of(token)
    assert (program.user_id, program.org_id, program.role) == (ALICE, ACME, Role.VIEWER)
