"""What the commands about one's organisation print."""

from collections.abc import Mapping, Sequence

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.cli.outputs import note, print_json, say
from agentapi_mcp.core.catalogue.models import Organization
from agentapi_mcp.core.catalogue.policy import NAMES
from agentapi_mcp.core.services import Services
from agentapi_mcp.presentation.organizations import organization_out

_LISTS = ("allowed_agents", "allowed_models")


async def create_organization(services: Services, name: str) -> None:
    """Make an organisation and print its id, alone on stdout."""
    say(str(await services.memberships.create_organization(services.principal, name)))
    note("You own it. Invite people with `agentapi-mcp members invite EMAIL --org` and this id.")


async def show_organization(services: Services, *, as_json: bool) -> None:
    """Print the organisation's settings and numbers."""
    _print(await services.organizations.get(services.principal), as_json=as_json)


async def set_organization(services: Services, name: str, values: Sequence[str]) -> None:
    """Set one setting."""
    changed = await services.organizations.change(services.principal, {name: _value(name, values)})
    _print(changed, as_json=False)


async def unset_organization(services: Services, names: Sequence[str]) -> None:
    """Take settings back."""
    _print(await services.organizations.change(services.principal, dict.fromkeys(names)), as_json=False)


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
    out = organization_out(organization)
    if as_json:
        print_json(out.model_dump(mode="json"))
        return
    numbers = out.numbers
    say(f"{out.name} ({out.id})")
    say(f"{numbers.members} members, {numbers.sessions} sessions, {numbers.messages} messages")
    turns = ", ".join(f"{count} {status}" for status, count in sorted(numbers.turns.items())) or "no turns"
    cost = "unknown cost" if numbers.cost_usd is None else f"${numbers.cost_usd:.4f}"
    say(f"last 30 days: {turns}; {numbers.input_tokens} + {numbers.output_tokens} tokens, {cost}")
    settings = out.settings.model_dump()
    for name in NAMES:
        value = settings[name]
        shown = "-" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownArgumentType]  # as pydantic dumped it
        say(f"{name}: {shown}")
