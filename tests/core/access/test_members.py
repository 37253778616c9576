"""Who may say who is in an organisation, over a real database."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.errors import (
    AgentApiError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
)
from agentapi_mcp.core.access.members import INVITED_FOR, Memberships
from agentapi_mcp.core.access.models import Invitation
from agentapi_mcp.core.identity.principals import VIA_PERSONAL, Principal, Role
from agentapi_mcp.stores.postgres.database import Database
from agentapi_mcp.stores.postgres.members import PostgresMembers
from tests.support.audits import audit_log
from tests.support.members import new_member


@pytest.fixture
def memberships(database: Database) -> Memberships:
    return Memberships(PostgresMembers(database), SystemClock(), audit_log(database))


async def roles(memberships: Memberships, owner: Principal) -> dict[str, str]:
    return {str(member.user_id): member.role for member in (await memberships.list_(owner)).members}


async def test_an_administrator_sees_and_changes_the_members_of_their_organisation_alone(
    memberships: Memberships, database: Database
) -> None:
    owner = await new_member(database)
    admin, bo = await new_member(database, owner, Role.ADMIN), await new_member(database, owner, Role.MEMBER)
    stranger = await new_member(database)
    await memberships.set_role(admin, str(bo.user_id), Role.VIEWER)
    seen = {str(owner.user_id): "owner", str(admin.user_id): "admin", str(bo.user_id): "viewer"}
    assert await roles(memberships, admin) == seen
    assert await roles(memberships, stranger) == {str(stranger.user_id): "owner"}
    for change in (
        memberships.set_role(stranger, str(bo.user_id), Role.MEMBER),
        memberships.remove(stranger, str(bo.user_id)),
    ):
        with pytest.raises(NotFoundError):
            await change
    await memberships.remove(admin, str(bo.user_id))
    assert str(bo.user_id) not in await roles(memberships, owner)


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER])
async def test_who_is_no_administrator_does_nothing(memberships: Memberships, database: Database, role: Role) -> None:
    owner = await new_member(database)
    bo = await new_member(database, owner, role)
    for refused in (
        memberships.list_(bo),
        memberships.invite(bo, "eve@example.com", Role.MEMBER),
        memberships.withdraw(bo, "eve@example.com"),
        memberships.set_role(bo, str(bo.user_id), Role.ADMIN),
        memberships.remove(bo, str(owner.user_id)),
    ):
        with pytest.raises(PermissionDeniedError):
            await refused
    assert await roles(memberships, owner) == {str(owner.user_id): "owner", str(bo.user_id): role}


async def test_an_administrator_makes_and_unmakes_no_owner(memberships: Memberships, database: Database) -> None:
    owner = await new_member(database)
    admin, other = await new_member(database, owner, Role.ADMIN), await new_member(database, owner)
    for refused in (
        memberships.invite(admin, "eve@example.com", Role.OWNER),
        memberships.set_role(admin, str(admin.user_id), Role.OWNER),
        memberships.set_role(admin, str(other.user_id), Role.VIEWER),
        memberships.remove(admin, str(other.user_id)),
    ):
        with pytest.raises(PermissionDeniedError, match="owners:manage"):
            await refused
    await memberships.set_role(owner, str(other.user_id), Role.MEMBER)
    await memberships.set_role(owner, str(admin.user_id), Role.OWNER)


async def test_the_last_owner_stays(memberships: Memberships, database: Database) -> None:
    owner = await new_member(database)
    second = await new_member(database, owner)

    async def leave(who: Principal) -> bool:
        try:
            await memberships.remove(who, str(who.user_id))
        except AgentApiError:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leave(who)) for who in (owner, second)]
    assert sorted(task.result() for task in tasks) == [False, True]
    (left,) = await roles(memberships, owner)
    last = owner if left == str(owner.user_id) else second
    for refused in (
        memberships.remove(last, left),
        memberships.set_role(last, left, Role.ADMIN),
    ):
        with pytest.raises(ConflictError, match="last owner"):
            await refused
    await memberships.set_role(last, left, Role.OWNER)


async def test_an_invitation_is_listed_replaced_and_taken_back(memberships: Memberships, database: Database) -> None:
    owner, email = await new_member(database), f"{uuid4().hex}@example.com"
    await memberships.invite(owner, f" {email.upper()} ", Role.MEMBER)
    await memberships.invite(owner, email, Role.VIEWER)
    (invitation,) = (await memberships.list_(owner)).invitations
    assert (invitation.email, invitation.role) == (email, "viewer")
    await memberships.withdraw(owner, email)
    assert (await memberships.list_(owner)).invitations == ()
    with pytest.raises(NotFoundError):
        await memberships.withdraw(owner, email)


@pytest.mark.parametrize(
    "email",
    [
        *("", "ann", "@example.com", "ann@", "a b@example.com", "ann@example.com\n\x1b[0m", "a" * 250 + "@x.io"),
        *("\u0430nn@example.com", "ann@ex\u00e4mple.com", "\u212aen@example.com", "ann@example.com\u200b", "ann@a@b.c"),
    ],
)
async def test_what_is_no_address_is_not_invited(email: str, memberships: Memberships, database: Database) -> None:
    with pytest.raises(InvalidRequestError, match="e-mail address"):
        await memberships.invite(await new_member(database), email, Role.MEMBER)


async def test_an_invitation_of_earlier_days_is_withdrawn_whatever_its_address(
    memberships: Memberships, database: Database
) -> None:
    owner = await new_member(database)
    kept = Invitation(email="\u0430nn@example.com", role="member", expires_at=SystemClock().now() + INVITED_FOR)
    await PostgresMembers(database).invite(owner, kept)
    await memberships.withdraw(owner, "\u0430nn@example.com")
    assert (await memberships.list_(owner)).invitations == ()


async def test_a_program_and_somebody_who_is_here_are_left_as_they_are(
    memberships: Memberships, database: Database
) -> None:
    owner = await new_member(database)
    program = await new_member(database, owner, Role.MEMBER)
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO agentapi.identities (issuer, subject, user_id, is_service) VALUES ('https://x', $1, $2, true)",
            str(program.user_id),
            program.user_id,
        )
        email = f"{uuid4().hex}@Example.com"
        await connection.execute("UPDATE public.profiles SET email = $2 WHERE id = $1", owner.user_id, email)
    for change in (
        memberships.set_role(owner, str(program.user_id), Role.VIEWER),
        memberships.remove(owner, str(program.user_id)),
    ):
        with pytest.raises(ConflictError, match="program"):
            await change
    with pytest.raises(ConflictError, match="has the address"):
        await memberships.invite(owner, email.lower(), Role.MEMBER)


async def test_whoever_makes_an_organisation_owns_it(memberships: Memberships, database: Database) -> None:
    maker = await new_member(database)
    org_id = await memberships.create_organization(maker, "Acme")
    assert org_id != maker.org_id
    assert await roles(memberships, Principal(maker.user_id, org_id)) == {str(maker.user_id): "owner"}
    for name in (" ", "two\nlines", "x" * 256):
        with pytest.raises(InvalidRequestError):
            await memberships.create_organization(maker, name)


async def test_everybody_knows_their_own_organisations_with_their_rights_there(
    memberships: Memberships, database: Database
) -> None:
    ann, bo = await new_member(database), await new_member(database)
    async with database.as_system("test") as connection:
        await connection.execute(
            "INSERT INTO public.organization_members (organization_id, user_id, role) VALUES ($1, $2, 'viewer')",
            bo.org_id,
            ann.user_id,
        )
    own = [each.principal for each in await memberships.own(ann)]
    assert own == [ann, Principal(ann.user_id, bo.org_id, Role.VIEWER)]
    assert [each.principal for each in await memberships.own(own[1])] == [own[1], own[0]]
    assert [each.principal for each in await memberships.own(bo)] == [bo]
    # A token is for one organisation.
    narrow = replace(ann, via=f"{VIA_PERSONAL}id")
    assert [each.principal for each in await memberships.own(narrow)] == [narrow]
