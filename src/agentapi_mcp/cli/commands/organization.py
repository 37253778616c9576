"""The commands for organisations and their settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from uuid import UUID

import click

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.ids import OrgId
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import in_organization, json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_err, print_out

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.catalogue import policy
    from agentapi_mcp.core.catalogue.models import Organization
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import organizations
else:
    organizations = LazyModule("agentapi_mcp.presentation.organizations")
    policy = LazyModule("agentapi_mcp.core.catalogue.policy")

_LISTS = ("allowed_agents", "allowed_models")


@click.group(cls=CommandGroup)
def organization() -> None:
    """See and set what holds for everybody in your organisation."""


@organization.command("create")
@click.argument("name")
@json_option
def organization_create(name: str, *, as_json: bool) -> None:
    """Make another organisation, which you own, and print its id."""
    run(lambda services, _: _create_organization(services, name, as_json=as_json))


@organization.command("show")
@in_organization
@json_option
def organization_show(*, as_json: bool, org_id: UUID | None) -> None:
    """Show its settings, its numbers and its limits."""
    run(lambda services, _: _show_organization(services, as_json=as_json), org_id=org_id)


@organization.command("set")
@click.argument("name")
@click.argument("values", nargs=-1, required=True)
@in_organization
@json_option
def organization_set(name: str, values: tuple[str, ...], org_id: UUID | None, *, as_json: bool) -> None:
    """Set NAME; allowed_agents and allowed_models take several VALUES."""
    run(lambda services, _: _set_organization(services, name, values, as_json=as_json), org_id=org_id)


@organization.command("unset")
@click.argument("names", nargs=-1, required=True)
@in_organization
@json_option
def organization_unset(names: tuple[str, ...], org_id: UUID | None, *, as_json: bool) -> None:
    """Take settings back."""
    run(lambda services, _: _unset_organization(services, names, as_json=as_json), org_id=org_id)


# A negative number is no option, and is refused with what is right.
@organization.command("limit", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("most", required=False)
@click.option("--none", "is_removed", is_flag=True, help="No limit any more.")
@click.option("--org", "org_id", type=click.UUID, metavar="ORG_ID", help="Of this organisation, and not of yours.")
@json_option
def organization_limit(name: str, most: str | None, *, is_removed: bool, org_id: UUID | None, as_json: bool) -> None:
    """Bound it, as the operator: NAME is max_conversations, max_running_turns or max_running_bytes."""
    if (most is None) != is_removed:
        raise click.UsageError("Say how much, or --none for no limit.")
    run(lambda services, _: _limit_organization(services, org_id, name, most, as_json=as_json))


async def _create_organization(services: Services, name: str, *, as_json: bool) -> None:
    """Create an organisation and print its id; stdout has only the id, for scripts."""
    id_ = str(await services.memberships.create_organization(services.principal, name))
    if as_json:
        print_json({"id": id_, "name": name.strip()})
    else:
        print_out(id_)
    print_err("You own it. Invite people with `agentapi-mcp members invite EMAIL --org` and this id.")


async def _show_organization(services: Services, *, as_json: bool) -> None:
    """Print the organisation's settings and numbers."""
    _print(await services.organizations.get(services.principal), as_json=as_json)


async def _set_organization(services: Services, name: str, values: Sequence[str], *, as_json: bool) -> None:
    """Set one setting."""
    try:
        changed = await services.organizations.change(services.principal, {name: _value(name, values)})
    except InvalidRequestError as exc:  # here a setting is no option, such as --max-tokens
        raise InvalidRequestError(str(exc), next_step=exc.next_step) from None
    _print(changed, as_json=as_json)


async def _unset_organization(services: Services, names: Sequence[str], *, as_json: bool) -> None:
    """Reset settings to their defaults."""
    _print(await services.organizations.change(services.principal, dict.fromkeys(names)), as_json=as_json)


async def _limit_organization(
    services: Services, org_id: UUID | None, name: str, most: str | None, *, as_json: bool
) -> None:
    """Set a limit, or remove it."""
    target = services.principal.org_id if org_id is None else OrgId(org_id)
    bound = None if most is None else _count(name, most)
    await services.organizations.limit(services.principal, target, name, bound)
    if as_json:
        print_json({"org_id": str(target), "name": name, "most": bound})
        return
    print_err(f"From the next message on, {name} is {'without a limit' if most is None else most}.")


def _count(name: str, text: str) -> int:
    if re.fullmatch("[0-9]{1,30}", text) is None:
        raise InvalidRequestError("must be a whole number in digits, as in 50.", argument=name)
    return int(text)


def _value(name: str, values: Sequence[str]) -> object:
    if name in _LISTS:
        return tuple(values)
    text = " ".join(values)
    kinds: Mapping[str, type[float | int]] = {"temperature": float, "max_tokens": int}
    if name not in kinds:
        return text
    try:
        return kinds[name](text)
    except ValueError:
        raise InvalidRequestError("must be a number.", argument=name) from None


def _print(organization: Organization, *, as_json: bool) -> None:
    out = organizations.organization_out(organization)
    if as_json:
        print_json(out.model_dump(mode="json"))
        return
    numbers = out.numbers
    print_out(f"{out.name} ({out.id})")
    print_out(organizations.describe_size(numbers))
    turns = ", ".join(f"{count} {status}" for status, count in sorted(numbers.turns.items())) or "no turns"
    print_out(f"last 30 days: {turns}; {organizations.describe_usage(numbers)}")
    settings = out.settings.model_dump()
    for name in policy.NAMES:
        value = settings[name]
        shown = "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType]  # as pydantic dumped it
        print_out(f"{name}: {shown}")
    for line in (*organizations.describe_undeclared(out.undeclared_agents), *organizations.describe_limits(out.limits)):
        print_out(line)
