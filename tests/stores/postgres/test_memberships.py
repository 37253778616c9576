"""Who may use an organisation, by the columns that a database has, and what follows in each statement and sign-in."""

from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import pytest

from agentapi_mcp.base.errors import AgentApiError, PermissionDeniedError
from agentapi_mcp.base.ids import AgentId, new_id
from agentapi_mcp.core.access.models import Issuer, MembershipStatus, Newcomers, Service, SubjectIs, TokenClaims
from agentapi_mcp.core.access.sign_ins import SignIns
from agentapi_mcp.core.conversations.models import AcceptedTurn, TurnStatus
from agentapi_mcp.core.conversations.session_facts import NOT_ARCHIVED
from agentapi_mcp.core.identity.principals import Principal, Role
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import Database, PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.identities import PostgresIdentities
from agentapi_mcp.stores.postgres.local_identity import PostgresProfiles
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.sessions import PostgresSessions
from agentapi_mcp.stores.postgres.turns import PostgresTurns
from tests.conftest import DatabaseUrls
from tests.support.audits import audit_log
from tests.support.members import new_member
from tests.support.new_turns import ending, new_turn
from tests.support.supabase import ACME, ALICE, APP, Project
from tests.support.suspensions import COLUMNS, WAYS, end_membership, run_as_owner

ACTIVE, REMOVED, SUSPENDED = MembershipStatus.ACTIVE, MembershipStatus.REMOVED, MembershipStatus.SUSPENDED


async def status_of(database: Database, who: Principal) -> MembershipStatus:
    statuses = await PostgresProfiles(database).membership_statuses([(who.user_id, who.org_id)])
    return statuses[who.user_id, who.org_id]


@pytest.mark.parametrize(
    ("kind", "value", "status"),
    [
        ("text", "active", ACTIVE),
        ("text", " Active ", ACTIVE),
        ("text", None, ACTIVE),
        ("text", "", SUSPENDED),
        ("text", "suspended", SUSPENDED),
        ("text", "inactive", SUSPENDED),
        ("varchar(20)", "pending", SUSPENDED),
    ],
)
async def test_a_status_other_than_active_suspends_as_soon_as_there_is_such_a_column(
    kind: str, value: str | None, status: MembershipStatus, own_database: DatabaseUrls
) -> None:
    await run_as_owner(own_database.owner, "ALTER TABLE public.profiles DROP COLUMN status")
    async with open_database(RemoteServer(own_database.app), PoolOptions(max_size=1)) as database:
        ann, bo = await new_member(database), await new_member(database)
        assert await status_of(database, ann) is ACTIVE  # the plan without the column
        await run_as_owner(own_database.owner, f"ALTER TABLE public.profiles ADD COLUMN status {kind}")
        await run_as_owner(
            own_database.owner, "UPDATE public.profiles SET status = $1 WHERE id = $2", value, ann.user_id
        )
        assert (await status_of(database, ann), await status_of(database, bo)) == (status, ACTIVE)
        await run_as_owner(own_database.owner, "ALTER TABLE public.profiles DROP COLUMN status")
        assert await status_of(database, ann) is ACTIVE


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_to_lose_an_organisation_is_told_and_nobody_else_loses_it(
    way: str, own_database: DatabaseUrls
) -> None:
    await run_as_owner(own_database.owner, COLUMNS)
    async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
        ann = await new_member(database)
        abe, bo = await new_member(database, ann), await new_member(database)
        everybody = [(who.user_id, who.org_id) for who in (ann, abe, bo, replace(ann, org_id=bo.org_id))]
        await end_membership(own_database.owner, way, ann.user_id, ann.org_id)
        statuses = await PostgresProfiles(database).membership_statuses(everybody)
        status = WAYS[way][1]
        colleague = status if status is MembershipStatus.ORGANIZATION_DELETED else ACTIVE
        assert [statuses[one] for one in everybody] == [status, colleague, ACTIVE, REMOVED]


@pytest.mark.parametrize("way", ["suspended", "organisation deleted"])
async def test_the_columns_of_a_database_of_ours_count_as_well(way: str, own_database: DatabaseUrls) -> None:
    async with open_database(RemoteServer(own_database.app), PoolOptions(max_size=1)) as database:
        ann, bo = await new_member(database), await new_member(database)
        await end_membership(own_database.owner, way, ann.user_id, ann.org_id)
        assert (await status_of(database, ann), await status_of(database, bo)) == (WAYS[way][1], ACTIVE)


async def test_nobody_but_the_program_asks_for_the_status_of_a_member(database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        may = "SELECT has_function_privilege($1, 'agentapi.membership_status(uuid, uuid)', 'EXECUTE')"
        roles = ("anon", "authenticated", "service_role", "agentapi_writer", "agentapi_system")
        assert [await owner.fetchval(may, role) for role in roles] == [False, False, False, False, True]
    finally:
        await owner.close()


@pytest.mark.parametrize("way", WAYS)
async def test_the_policies_refuse_who_may_not_use_the_organisation_and_let_a_turn_that_runs_be_ended(
    way: str, own_database: DatabaseUrls
) -> None:
    await run_as_owner(own_database.owner, COLUMNS)
    agent, owner = AgentId(new_id()), new_id()
    await run_as_owner(
        own_database.owner, "INSERT INTO public.agents (id, name, type) VALUES ($1, 'a', 'guide')", agent
    )
    async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
        turns, sessions, ann = PostgresTurns(database), PostgresSessions(database), await new_member(database)
        begun = await turns.begin(ann, replace(new_turn(agent, "hello"), lease_owner=owner))
        assert isinstance(begun, AcceptedTurn)
        listing = sessions.list_(ann, NOT_ARCHIVED, cursor=None, limit=9)
        assert len((await listing).items) == 1
        await end_membership(own_database.owner, way, ann.user_id, ann.org_id)
        with pytest.raises(AgentApiError):
            await turns.begin(ann, new_turn(agent, "again"))
        assert (await sessions.list_(ann, NOT_ARCHIVED, cursor=None, limit=9)).items == ()
        ended = await turns.finish(ann, replace(begun.turn, status=TurnStatus.CANCELLED, reply="so"), ending(owner))
        assert ended is not None
        # An outside client asks without an organisation, and is refused only where it is no member.
        async with database.as_principal(ann) as connection:
            await connection.execute("SELECT set_config('request.jwt.claims', $1, true)", f'{{"sub": "{ann.user_id}"}}')
            seen = await connection.fetchval("SELECT count(*) FROM public.chat_sessions")
        assert seen == (0 if way == "removed" else 1)


def claims(issuer: Issuer, subject: str, **changed: str | bool) -> TokenClaims:
    return TokenClaims(
        issuer=issuer,
        subject=subject,
        scopes=frozenset(),
        expires_at=datetime.now(UTC),
        **changed,  # type: ignore[arg-type]  # as the class says
    )


WORDS = {
    MembershipStatus.REMOVED: "no longer a member|of no organisation",
    MembershipStatus.SUSPENDED: "suspended",
    MembershipStatus.ORGANIZATION_DELETED: "was deleted",
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_person_and_a_program_are_refused_with_the_reason(way: str, own_database: DatabaseUrls) -> None:
    await run_as_owner(own_database.owner, COLUMNS)
    async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
        sign_ins = SignIns(PostgresIdentities(database), audit_log(database))
        issuer = Issuer(issuer="https://a.example", newcomers=Newcomers.PERSONAL, needs_scopes=False)
        person = claims(issuer, "ann")
        ann = await sign_ins.principal_of(person)
        service = Service(client_id="nightly", org_id=ann.org_id)
        token = claims(replace(issuer, services=(service,)), "nightly", is_service=True)
        program = await sign_ins.principal_of(token)
        status = WAYS[way][1]
        await end_membership(own_database.owner, way, ann.user_id, ann.org_id)
        with pytest.raises(PermissionDeniedError, match=WORDS[status]):
            await sign_ins.principal_of(person)
        await end_membership(own_database.owner, way, program.user_id, ann.org_id)
        if way == "removed":  # the operator's file says where a program belongs
            assert await sign_ins.principal_of(token) == program
        else:
            with pytest.raises(PermissionDeniedError, match=WORDS[status]):
                await sign_ins.principal_of(token)


async def test_who_has_another_organisation_uses_that_unless_the_token_names_the_deleted_one(
    own_database: DatabaseUrls,
) -> None:
    await run_as_owner(own_database.owner, COLUMNS)
    async with open_database(RemoteServer(own_database.app), PoolOptions()) as database:
        sign_ins = SignIns(PostgresIdentities(database), audit_log(database))
        issuer = Issuer(issuer="https://a.example", newcomers=Newcomers.PERSONAL, needs_scopes=False)
        ann, other = await sign_ins.principal_of(claims(issuer, "ann")), await new_member(database)
        await run_as_owner(
            own_database.owner,
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'viewer')",
            *(other.org_id, ann.user_id),
        )
        for selected in (other.org_id, ann.org_id):
            await run_as_owner(
                own_database.owner,
                "UPDATE public.profiles SET current_organization_id = $1 WHERE id = $2",
                *(selected, ann.user_id),
            )
            assert (await sign_ins.principal_of(claims(issuer, "ann"))).org_id == selected
        await end_membership(own_database.owner, "organisation deleted", ann.user_id, ann.org_id)
        moved = await sign_ins.principal_of(claims(issuer, "ann"))
        assert (moved.org_id, moved.role) == (other.org_id, Role.VIEWER)
        with pytest.raises(PermissionDeniedError, match="was deleted"):
            await sign_ins.principal_of(claims(issuer, "ann", organization=str(ann.org_id)))


async def test_a_suspended_profile_that_was_there_is_linked_and_refused_at_its_first_sign_in(project: Project) -> None:
    await project.run(COLUMNS, role="supabase_owner")
    await migrate(project.owner, program=VERSION, grant_to=APP)
    await end_membership(project.admin, "suspended", ALICE, ACME)  # type: ignore[arg-type]  # plain ids
    workos = Issuer(issuer="https://api.workos.example", subject_is=SubjectIs.WORKOS_ID, needs_scopes=False)
    async with open_database(RemoteServer(project.app), PoolOptions()) as database:
        audit = audit_log(database)
        sign_ins = SignIns(PostgresIdentities(database), audit)
        for _ in range(2):
            with pytest.raises(PermissionDeniedError, match="suspended"):
                await sign_ins.principal_of(claims(workos, "user_01A"))
        await audit.flush()
        counted = "SELECT count(*) FROM agentapi.audit_events WHERE action = 'identity_linked'"
        assert await project.value(counted) == 1
        await project.run("UPDATE public.profiles SET status = 'active'")
        assert (await sign_ins.principal_of(claims(workos, "user_01A"))).user_id == ALICE
