"""The commands for members of an organisation and their invitations."""

from __future__ import annotations

from uuid import UUID

import click

from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.members import member_id
from agentapi_mcp.cli.options import in_organization, json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.presentation.values import local_time, moment

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.access.models import Invitation, OrganizationMember
    from agentapi_mcp.core.services import Services

_ROLE = click.Choice([role.value for role in Role])


@click.group(cls=CommandGroup)
def members() -> None:
    """See who is in your organisation, invite people, and say what they may do."""


@members.command("list")
@in_organization
@json_option
def members_list(*, as_json: bool, org_id: UUID | None) -> None:
    """List members, and who is invited."""

    async def list_(services: Services, _settings: object) -> None:
        found = await services.memberships.list_(services.principal)
        if as_json:
            print_json(
                {
                    "members": [_member_json(one) for one in found.members],
                    "invitations": [_invitation_json(one) for one in found.invitations],
                }
            )
            return
        rows = [(one.email or "-", one.role, "program" if one.is_service else "", one.user_id) for one in found.members]
        rows += [(one.email, one.role, f"invited until {local_time(one.expires_at)}", "") for one in found.invitations]
        table(("E-MAIL", "ROLE", "NOTE", "ID"), rows)

    run(list_, org_id=org_id)


@members.command("invite")
@click.argument("email")
@click.option("--role", type=_ROLE, default="member", show_default=True)
@in_organization
@json_option
def members_invite(email: str, role: str, org_id: UUID | None, *, as_json: bool) -> None:
    """Let in whoever first signs in with this verified e-mail within two weeks."""

    async def invite(services: Services, _settings: object) -> None:
        invitation = await services.memberships.invite(services.principal, email, Role(role))
        if as_json:
            print_json(_invitation_json(invitation))
            return
        until = local_time(invitation.expires_at)
        print_err(f"Invited {invitation.email} as {invitation.role} until {until}. No mail is sent.")

    run(invite, org_id=org_id)


@members.command("withdraw")
@click.argument("email")
@in_organization
@json_option
def members_withdraw(email: str, org_id: UUID | None, *, as_json: bool) -> None:
    """Take an invitation back."""

    async def withdraw(services: Services, _settings: object) -> None:
        await services.memberships.withdraw(services.principal, email)
        if as_json:
            print_json({"withdrawn": email})
        else:
            print_err("Taken back.")

    run(withdraw, org_id=org_id)


@members.command("role")
@click.argument("which", metavar="ID|EMAIL")
@click.argument("role", type=_ROLE)
@in_organization
@json_option
def members_role(which: str, role: str, org_id: UUID | None, *, as_json: bool) -> None:
    """Give a member another role, from their next request on."""

    async def change(services: Services, _settings: object) -> None:
        found = await member_id(services, which)
        member = await services.memberships.set_role(services.principal, found, Role(role))
        if as_json:
            print_json(_member_json(member) | {"role": role})
        else:
            print_err(f"{member.email or member.user_id} is {role} now.")

    run(change, org_id=org_id)


@members.command("remove")
@click.argument("which", metavar="ID|EMAIL")
@in_organization
@json_option
def members_remove(which: str, org_id: UUID | None, *, as_json: bool) -> None:
    """Let a member in no more; their sessions stay."""

    async def remove(services: Services, _settings: object) -> None:
        member = await services.memberships.remove(services.principal, await member_id(services, which))
        if as_json:
            print_json({"removed": _member_json(member)})
        else:
            print_err(f"Removed {member.email or member.user_id}.")

    run(remove, org_id=org_id)


def _member_json(member: OrganizationMember) -> dict[str, object]:
    return {
        "user_id": str(member.user_id),
        "email": member.email,
        "role": member.role,
        "is_service": member.is_service,
    }


def _invitation_json(invitation: Invitation) -> dict[str, object]:
    return {"email": invitation.email, "role": invitation.role, "expires_at": moment(invitation.expires_at)}
