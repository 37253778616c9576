"""The commands for members of an organisation and their invitations."""

from uuid import UUID

import click

from agentapi_mcp.cli.options import in_organization, json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.identity.principals import Role
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.values import moment
from agentapi_mcp.settings import Settings

_ROLE = click.Choice([role.value for role in Role])


@click.group()
def members() -> None:
    """See who is in your organisation, invite people, and say what they may do."""


@members.command("list")
@in_organization
@json_option
def members_list(*, as_json: bool, org_id: UUID | None) -> None:
    """List members, and who is invited."""

    async def list_(services: Services, _settings: Settings) -> None:
        found = await services.memberships.list_(services.principal)
        if as_json:
            members_json = [
                {"user_id": str(one.user_id), "email": one.email, "role": one.role, "is_service": one.is_service}
                for one in found.members
            ]
            invitations_json = [
                {"email": one.email, "role": one.role, "expires_at": moment(one.expires_at)}
                for one in found.invitations
            ]
            print_json({"members": members_json, "invitations": invitations_json})
            return
        rows = [(one.email or "-", one.role, "program" if one.is_service else "", one.user_id) for one in found.members]
        rows += [(one.email, one.role, f"invited until {one.expires_at:%Y-%m-%d}", "") for one in found.invitations]
        table(("E-MAIL", "ROLE", "NOTE", "ID"), rows)

    run(list_, org_id=org_id)


@members.command("invite")
@click.argument("email")
@click.option("--role", type=_ROLE, default="member", show_default=True)
@in_organization
def members_invite(email: str, role: str, org_id: UUID | None) -> None:
    """Let in whoever first signs in with this verified e-mail within two weeks."""

    async def invite(services: Services, _settings: Settings) -> None:
        invitation = await services.memberships.invite(services.principal, email, Role(role))
        print_err(
            f"Invited {invitation.email} as {invitation.role} until {invitation.expires_at:%Y-%m-%d}. No mail is sent."
        )

    run(invite, org_id=org_id)


@members.command("withdraw")
@click.argument("email")
@in_organization
def members_withdraw(email: str, org_id: UUID | None) -> None:
    """Take an invitation back."""

    async def withdraw(services: Services, _settings: Settings) -> None:
        await services.memberships.withdraw(services.principal, email)
        print_err("Taken back.")

    run(withdraw, org_id=org_id)


@members.command("role")
@click.argument("which", metavar="ID|EMAIL")
@click.argument("role", type=_ROLE)
@in_organization
def members_role(which: str, role: str, org_id: UUID | None) -> None:
    """Give a member another role, from their next request on."""

    async def change(services: Services, _settings: Settings) -> None:
        member = await services.memberships.set_role(services.principal, which, Role(role))
        print_err(f"{member.email or member.user_id} is {role} now.")

    run(change, org_id=org_id)


@members.command("remove")
@click.argument("which", metavar="ID|EMAIL")
@in_organization
def members_remove(which: str, org_id: UUID | None) -> None:
    """Let a member in no more; their sessions stay."""

    async def remove(services: Services, _settings: Settings) -> None:
        member = await services.memberships.remove(services.principal, which)
        print_err(f"Removed {member.email or member.user_id}.")

    run(remove, org_id=org_id)
