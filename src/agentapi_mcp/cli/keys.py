"""The commands for API keys and for the master keys that seal them."""

import sys

import click
from pydantic import SecretStr

from agentapi_mcp.app.maintenance import new_master_key
from agentapi_mcp.base.errors import StoreError
from agentapi_mcp.cli.outputs import note, print_json, run, say, table
from agentapi_mcp.core.keys.api_keys import NewApiKey
from agentapi_mcp.core.keys.models import ApiKey
from agentapi_mcp.core.services import Services
from agentapi_mcp.settings import Settings

_LONGEST = 100_000
_ORGANIZATION = click.option("--organization", is_flag=True, help="The organisation's, for all of its members.")


@click.group()
def keys() -> None:
    """Keep API keys of your own, used instead of the server's."""


@keys.command("add")
@click.argument("provider")
@click.option("--model", help="For this model only.")
@click.option("--name", help="What to call it; without it, by provider and model.")
@_ORGANIZATION
def keys_add(provider: str, model: str | None, name: str | None, *, organization: bool) -> None:
    """Add a key for PROVIDER: entered at a hidden prompt, or from a pipe; never an argument, which others could see."""
    new = NewApiKey(provider=provider, value=_entered(), model=model, name=name)

    async def add(services: Services, _settings: Settings) -> None:
        key = await services.api_keys.add(services.principal, new, organization=organization)
        note(f"Added {_named(key)}. It is used from the next message on.")

    run(add)


@keys.command("list")
@_ORGANIZATION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keys_list(*, organization: bool, as_json: bool) -> None:
    """List your keys, without the keys themselves."""

    async def list_(services: Services, _settings: Settings) -> None:
        found = await services.api_keys.list_(services.principal, organization=organization)
        if as_json:
            print_json([_json(key) for key in found])
            return
        columns = ("NAME", "PROVIDER", "MODEL", "KEY", "STATE", "LAST USED", "ID")
        table(columns, [_row(key) for key in found])
        if not found:
            note("There is no key; `agentapi-mcp keys add PROVIDER` adds one.")

    run(list_)


@keys.command("remove")
@click.argument("which", metavar="ID|NAME")
@_ORGANIZATION
def keys_remove(which: str, *, organization: bool) -> None:
    """Remove a key for good."""

    async def remove(services: Services, _settings: Settings) -> None:
        note(f"Removed {_named(await services.api_keys.remove(services.principal, which, organization=organization))}.")

    run(remove)


@keys.command("deactivate")
@click.argument("which", metavar="ID|NAME")
@_ORGANIZATION
def keys_deactivate(which: str, *, organization: bool) -> None:
    """Keep a key, and do not use it."""
    _set_active(which, organization=organization, active=False)


@keys.command("activate")
@click.argument("which", metavar="ID|NAME")
@_ORGANIZATION
def keys_activate(which: str, *, organization: bool) -> None:
    """Use a key again."""
    _set_active(which, organization=organization, active=True)


def _set_active(which: str, *, organization: bool, active: bool) -> None:
    async def change(services: Services, _settings: Settings) -> None:
        key = await services.api_keys.set_active(services.principal, which, active=active, organization=organization)
        note(f"{'Used again' if active else 'Not used any more'}: {_named(key)}.")

    run(change)


@click.group()
def secrets() -> None:
    """Look after the master keys, which seal what is secret in the database."""


@secrets.command("generate")
def secrets_generate() -> None:
    """Print a new master key."""
    say(new_master_key())


@secrets.command("rotate")
def secrets_rotate() -> None:
    """Seal every key with the first master key again; may be stopped and begun again at any time."""

    async def rotate(services: Services, _settings: Settings) -> None:
        done = await services.api_keys.rotate(services.principal)
        say(f"Sealed again: {done.sealed}.")
        if done.unopened:
            which = ", ".join(f"{count} by {name!r}" for name, count in sorted(done.unopened.items()))
            raise StoreError(
                f"Not opened, and left as they were: {which}. Add the master key that sealed them to "
                "AGENTAPI_MASTER_KEY, after the first, and run this again; or let their owners enter them again."
            )

    run(rotate)


def _entered() -> SecretStr:
    """Read a key from whoever is at the terminal, or from what is piped in."""
    if sys.stdin.isatty():
        return SecretStr(click.prompt("API key", hide_input=True, err=True))
    try:
        return SecretStr(sys.stdin.read(_LONGEST))
    except UnicodeDecodeError:
        return SecretStr("\0")  # refused as what it is, no key


def _named(key: ApiKey) -> str:
    ending = "" if key.last_four is None else f" (…{key.last_four})"
    return f"the key {key.name!r} for {key.provider}{ending}"


def _row(key: ApiKey) -> tuple[object, ...]:
    return (
        key.name,
        key.provider,
        key.model or "all",
        "hidden" if key.last_four is None else f"…{key.last_four}",
        "active" if key.active else "not used",
        "never" if key.last_used_at is None else f"{key.last_used_at:%Y-%m-%d %H:%M}",
        key.id,
    )


def _json(key: ApiKey) -> dict[str, object]:
    return {
        "id": str(key.id),
        "name": key.name,
        "whose": str(key.owner.key_source),
        "provider": key.provider,
        "model": key.model,
        "last_four": key.last_four,
        "active": key.active,
        "created_at": key.created_at.isoformat(),
        "last_used_at": key.last_used_at and key.last_used_at.isoformat(),
    }
