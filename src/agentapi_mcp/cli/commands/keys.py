"""The commands for API keys."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.found_keys import key_id
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.questions import ask_secret
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.presentation.values import local_time

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import pydantic

    from agentapi_mcp.core.keys import api_keys
    from agentapi_mcp.core.keys.models import ApiKey
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import credentials
else:
    pydantic = LazyModule("pydantic")
    credentials = LazyModule("agentapi_mcp.presentation.credentials")
    api_keys = LazyModule("agentapi_mcp.core.keys.api_keys")

_MAX_CHARACTERS = 100_000  # a bound on what is read of a pipe; the core checks the length of a key
_ORGANIZATION = click.option("--organization", is_flag=True, help="The organisation's, for all of its members.")


@click.group(cls=CommandGroup)
def keys() -> None:
    """Keep API keys of your own, used instead of the server's."""


@keys.command("add")
@click.argument("provider")
@click.option("--model", help="For this model only.")
@click.option("--name", help="What to call it; without it, by provider and model.")
@_ORGANIZATION
@json_option
def keys_add(provider: str, model: str | None, name: str | None, *, organization: bool, as_json: bool) -> None:
    """Add a key for PROVIDER: entered at a hidden prompt, or from a pipe; never an argument, which others could see."""
    new = api_keys.NewApiKey(provider=provider, value=_read_key(), model=model, name=name)

    async def add(services: Services, _settings: object) -> None:
        key = await services.api_keys.add(services.principal, new, organization=organization)
        _print(key, f"Added {_describe(key)}. It is used from the next message on.", as_json=as_json)

    run(add)


@keys.command("list")
@_ORGANIZATION
@json_option
def keys_list(*, organization: bool, as_json: bool) -> None:
    """List your keys, without the keys themselves."""

    async def list_(services: Services, _settings: object) -> None:
        found = await services.api_keys.list_(services.principal, organization=organization)
        if as_json:
            print_json({"keys": [credentials.key_json(key) for key in found]})
            return
        columns = ("NAME", "PROVIDER", "MODEL", "KEY", "STATE", "LAST USED", "ID")
        table(columns, [_row(key) for key in found])
        if not found:
            print_err("There is no key; `agentapi-mcp keys add PROVIDER` adds one.")

    run(list_)


@keys.command("remove")
@click.argument("which", metavar="ID|NAME")
@_ORGANIZATION
@json_option
def keys_remove(which: str, *, organization: bool, as_json: bool) -> None:
    """Remove a key for good."""

    async def remove(services: Services, _settings: object) -> None:
        found = await key_id(services, which, (organization,))
        key = await services.api_keys.remove(services.principal, found, organization=organization)
        _print(key, f"Removed {_describe(key)}.", as_json=as_json)

    run(remove)


@keys.command("deactivate")
@click.argument("which", metavar="ID|NAME")
@_ORGANIZATION
@json_option
def keys_deactivate(which: str, *, organization: bool, as_json: bool) -> None:
    """Keep a key, and do not use it."""
    _set_active(which, organization=organization, active=False, as_json=as_json)


@keys.command("activate")
@click.argument("which", metavar="ID|NAME")
@_ORGANIZATION
@json_option
def keys_activate(which: str, *, organization: bool, as_json: bool) -> None:
    """Use a key again."""
    _set_active(which, organization=organization, active=True, as_json=as_json)


def _set_active(which: str, *, organization: bool, active: bool, as_json: bool) -> None:
    async def change(services: Services, _settings: object) -> None:
        found = await key_id(services, which, (organization,))
        key = await services.api_keys.set_active(services.principal, found, active=active, organization=organization)
        key = replace(key, active=active)
        _print(key, f"{'Used again' if active else 'Not used any more'}: {_describe(key)}.", as_json=as_json)

    run(change)


def _print(key: ApiKey, said: str, *, as_json: bool) -> None:
    if as_json:
        print_json(credentials.key_json(key))
    else:
        print_err(said)


def _read_key() -> pydantic.SecretStr:
    """Read a key from a hidden prompt, or from stdin where that is no terminal."""
    if sys.stdin.isatty():
        return pydantic.SecretStr(ask_secret("API key"))
    try:
        return pydantic.SecretStr(sys.stdin.read(_MAX_CHARACTERS))
    except UnicodeDecodeError:
        return pydantic.SecretStr(
            "\0"
        )  # an invalid character: the core refuses it as it refuses any other malformed key


def _describe(key: ApiKey) -> str:
    ending = "" if key.last_four is None else f" (…{key.last_four})"
    return f"the key {key.name!r} for {key.provider}{ending}"


def _row(key: ApiKey) -> tuple[object, ...]:
    return (
        key.name,
        key.provider,
        key.model or "all",
        "hidden" if key.last_four is None else f"…{key.last_four}",
        "active" if key.active else "not used",
        "never" if key.last_used_at is None else local_time(key.last_used_at),
        key.id,
    )
