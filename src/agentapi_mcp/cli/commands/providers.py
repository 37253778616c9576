"""The commands for the providers that usage is told by."""

from __future__ import annotations

from typing import Any

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.catalogue.term_models import AuthType, Provider

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import terms as presented
else:
    presented = LazyModule("agentapi_mcp.presentation.terms")


@click.group(cls=CommandGroup)
def providers() -> None:
    """See the providers that usage is told by, and add others."""


@providers.command("list")
@json_option
def providers_list(*, as_json: bool) -> None:
    """List the providers that came with the program, and those that were added."""

    async def list_(services: Services, _settings: object) -> None:
        found = await services.terms.providers(services.principal)
        if as_json:
            print_json({"providers": [presented.provider_json(provider) for provider in found]})
            return
        rows = [
            (each.id, each.name, each.auth_type, presented.added(each.added_at), each.description) for each in found
        ]
        table(("PROVIDER", "NAME", "AUTH", "ADDED", "DESCRIPTION"), rows)

    run(list_)


@providers.command("add")
@click.argument("provider_id", metavar="ID")
@click.option("--name", help="What to call it; without it, as its ID.")
@click.option("--description", metavar="TEXT", help="What it offers.")
@click.option(
    "--auth",
    "auth_type",
    type=click.Choice([each.value for each in AuthType]),
    default="api_key",
    show_default=True,
    help="How it lets callers in.",
)
@click.option("--base-url", metavar="URL", help="Where its API is; shown only, and nothing is sent there.")
@json_option
def providers_add(provider_id: str, *, as_json: bool, auth_type: str, **more: Any) -> None:  # noqa: ANN401  # click's
    """Add a provider, for every organisation alike, under the ID that models and usage have it by.

    What is there is never changed; to add the same again changes nothing.
    """
    name = more.pop("name")
    provider = Provider(
        id=provider_id, name=provider_id if name is None else name, auth_type=AuthType(auth_type), **more
    )

    async def add(services: Services, _settings: object) -> None:
        is_new = await services.terms.add_provider(services.principal, provider)
        if as_json:
            print_json({"id": provider_id.strip().lower(), "is_new": is_new})
        else:
            print_err("Added." if is_new else "It is there already, as you say it.")

    run(add)
