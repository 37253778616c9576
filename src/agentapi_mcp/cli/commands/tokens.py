"""The commands for personal tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from uuid import UUID

import click
from typing_extensions import override

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.ids import TOKEN, find_id
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.identity.principals import NEEDS, TokenScope
from agentapi_mcp.edges.mcp.tools.toolset_names import toolset_names
from agentapi_mcp.presentation.values import local_time

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.base import clock
    from agentapi_mcp.core.access import personal_tokens
    from agentapi_mcp.core.access.models import PersonalToken
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import credentials
else:
    credentials = LazyModule("agentapi_mcp.presentation.credentials")
    personal_tokens = LazyModule("agentapi_mcp.core.access.personal_tokens")
    clock = LazyModule("agentapi_mcp.base.clock")

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class Lifetime(click.ParamType[timedelta]):
    """A number of minutes, hours, days or weeks, as in `30m`, `12h`, `90d` or `8w`."""

    name = "duration"

    @override
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse a number and its unit."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,5})([mhdw])", str(value).strip().lower())
        if found is None:
            self.fail("must be a number of minutes, hours, days or weeks, as in 30m, 12h, 90d or 8w.", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


def _target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name another user or organisation, for operators of a shared database."""
    for option in (
        click.option("--org", "org_id", type=click.UUID, metavar="ORG_ID", help="In this organisation."),
        click.option("--user", "user_id", type=click.UUID, metavar="USER_ID", help="For this user, and not for you."),
    ):
        command = option(command)
    return command


@click.group(cls=CommandGroup)
def tokens() -> None:
    """Make, list and revoke personal tokens, with which programs use the server over HTTP."""


@tokens.command("create")
@click.argument("name")
@click.option(
    "--scope", "scopes", type=click.Choice([scope.value for scope in TokenScope]), multiple=True, help="Repeatable."
)
@click.option(
    "--toolset",
    "toolsets",
    type=click.Choice(toolset_names()),
    multiple=True,
    help="Tools its clients see; repeatable.",
)
@click.option("--expires-in", type=Lifetime(), default="90d", show_default=True, help="At most 366d.")
@_target_options
@json_option
def tokens_create(
    name: str,
    scopes: tuple[str, ...],
    toolsets: tuple[str, ...],
    expires_in: timedelta,
    *,
    as_json: bool,
    **target: UUID | None,
) -> None:
    """Make a token and print it, this once; without --scope it may read, chat and edit.

    With --toolset, clients see the tools of these toolsets, whatever the server offers to others. That gives no right.
    """

    async def create(services: Services, _settings: object) -> None:
        made = await services.personal_tokens.create(
            services.principal,
            name,
            scopes=scopes or personal_tokens.USUAL_SCOPES,
            toolsets=toolsets or None,
            expires_in=expires_in,
        )
        if as_json:
            print_json(credentials.token_json(made.token) | {"token": made.secret})
            return
        print_out(made.secret)  # stdout has only the token, for scripts
        print_err(
            f"The token {made.token.name!r} is not shown again. Until {local_time(made.token.expires_at)} it "
            f"may: {', '.join(credentials.scopes_of(made.token))}. Send it as Authorization: Bearer."
        )
        for toolset, scopes_needed in sorted(_refused_toolsets(made.token)):
            print_err(
                f"It may call no tool of the toolset {toolset}, which needs --scope {scopes_needed}: its clients see "
                "them, and are refused."
            )

    run(create, **target)


@tokens.command("list")
@_target_options
@json_option
def tokens_list(*, as_json: bool, **target: UUID | None) -> None:
    """List the tokens that are not revoked, newest first."""

    async def list_(services: Services, _settings: object) -> None:
        found = await services.personal_tokens.list_(services.principal)
        if as_json:
            print_json({"tokens": [credentials.token_json(token) for token in found]})
            return
        table(("NAME", "TOKEN", "MAY", "EXPIRES", "LAST USED", "TOOLSETS", "ID"), [_row_of(token) for token in found])
        if not found:
            print_err("There is no token; `agentapi-mcp tokens create NAME` makes one.")

    run(list_, **target)


@tokens.command("revoke")
@click.argument("which", metavar="ID|NAME")
@_target_options
@json_option
def tokens_revoke(which: str, *, as_json: bool, **target: UUID | None) -> None:
    """End a token now."""

    async def revoke(services: Services, _settings: object) -> None:
        tokens = await services.personal_tokens.list_(services.principal)
        named = [one for one in tokens if one.name == which]
        id_ = str(named[0].id) if named else find_id([str(one.id) for one in tokens], which, TOKEN)
        token = next(one for one in tokens if str(one.id) == id_)
        await services.personal_tokens.revoke(services.principal, id_)
        if as_json:
            print_json({"revoked": credentials.token_json(token)})
        else:
            print_err(f"Revoked {token.name!r}. No request with it is answered any more.")

    run(revoke, **target)


def _refused_toolsets(token: PersonalToken) -> Iterator[tuple[str, str]]:
    """Name the toolsets of which the scopes allow nothing, each with the scopes that do."""
    for name in token.toolsets or ():
        registry = import_module("agentapi_mcp.edges.mcp.tools.registry")  # slow to import
        needed = {NEEDS[tool.spec.action].scope for tool in registry.find_tools({name})}
        if needed.isdisjoint(token.scopes):
            yield name, " or ".join(sorted(needed))


def _row_of(token: PersonalToken) -> tuple[object, ...]:
    expired = "expired " if token.expires_at <= clock.SystemClock().now() else ""
    return (
        token.name,
        f"…{token.last_four}",
        " ".join(credentials.scopes_of(token)),
        f"{expired}{local_time(token.expires_at)}",
        "never" if token.last_used_at is None else local_time(token.last_used_at),
        " ".join(credentials.toolsets_of(token) or ["the server's"]),
        token.id,
    )
