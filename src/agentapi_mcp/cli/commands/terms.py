"""The commands for the terms that usage is told by: features and kinds of interactions."""

from __future__ import annotations

from typing import Any

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.catalogue.term_models import Term, TermKind

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import terms as presented
else:
    presented = LazyModule("agentapi_mcp.presentation.terms")

_KIND = click.Choice([each.value for each in TermKind])


@click.group(cls=CommandGroup)
def terms() -> None:
    """See the features and the kinds of interactions there are, and add others."""


@terms.command("list")
@click.argument("kind", type=_KIND, required=False)
@json_option
def terms_list(kind: str | None, *, as_json: bool) -> None:
    """List the terms of one kind or of all, those that came with the program and those that were added."""

    async def list_(services: Services, _settings: object) -> None:
        found = [term for term in await services.terms.list_(services.principal) if kind in {None, term.kind}]
        if as_json:
            print_json({"terms": [presented.term_json(term) for term in found]})
            return
        rows = [
            (
                *(each.kind, each.id, each.name, each.category, each.icon, each.color),
                *(each.sort_order, presented.added(each.added_at), each.description),
            )
            for each in found
        ]
        table(("KIND", "TERM", "NAME", "CATEGORY", "ICON", "COLOR", "ORDER", "ADDED", "DESCRIPTION"), rows)

    run(list_)


@terms.command("add")
@click.argument("kind", type=_KIND)
@click.argument("term_id", metavar="ID")
@click.option("--name", help="What to call it; without it, as its ID.")
@click.option("--description", metavar="TEXT", help="What it is for.")
@click.option("--category", metavar="TEXT", help="What it is listed under, such as creative or technical.")
@click.option("--icon", metavar="NAME", help="The name of an icon, as your front end has it.")
@click.option("--color", metavar="#RRGGBB", help="Its colour in a front end.")
@click.option("--order", "sort_order", type=int, metavar="NUMBER", help="Its place among its kind; without it, last.")
@json_option
def terms_add(kind: str, term_id: str, *, as_json: bool, name: str | None, **more: Any) -> None:  # noqa: ANN401  # click's
    """Add a feature, or an interaction_type that conversations can have, for every organisation alike.

    What is there is never changed; to add the same again changes nothing.
    """
    term = Term(kind=TermKind(kind), id=term_id, name=term_id if name is None else name, **more)

    async def add(services: Services, _settings: object) -> None:
        is_new = await services.terms.add(services.principal, term)
        if as_json:
            print_json({"kind": kind, "id": term_id.strip().lower(), "is_new": is_new})
        else:
            print_err("Added." if is_new else "It is there already, as you say it.")

    run(add)
