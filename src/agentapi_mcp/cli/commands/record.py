"""The command that records conversations elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import one_line
from agentapi_mcp.base.validation import parse_moment
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import print_json, run
from agentapi_mcp.cli.terminal import print_err

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.conversations import session_facts
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import facts as shown
else:
    session_facts = LazyModule("agentapi_mcp.core.conversations.session_facts")
    shown = LazyModule("agentapi_mcp.presentation.facts")

_LONGEST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """The options, as they are typed."""

    title: str
    link: str | None
    id_: str | None
    agent: str | None
    model: str | None
    provider: str | None
    interaction_type: str | None
    tags: tuple[str, ...]
    content: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost: str | None
    started: str | None
    ended: str | None

    def interaction(self) -> session_facts.NewInteraction:
        """Read the options."""
        report = session_facts.Report(
            external_link=self.link,
            external_id=self.id_,
            agent=self.agent,
            model=self.model,
            provider=self.provider,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost_usd=None if self.cost is None else _usd(self.cost),
            content_preview=self.content,
        )
        return session_facts.NewInteraction(
            title=self.title,
            report=report,
            interaction_type=self.interaction_type,
            tags=self.tags,
            started_at=None if self.started is None else parse_moment(self.started, "started_at"),
            ended_at=None if self.ended is None else parse_moment(self.ended, "ended_at"),
        )


@click.command
@click.argument("title")
@click.option("--link", metavar="URL", help="Where it is; shown, never opened.")
@click.option("--id", "id_", metavar="TEXT", help="The same id is recorded once; without one, the same link.")
@click.option("--agent", metavar="NAME", help="Who answered, such as claude.ai.")
@click.option("--model", metavar="NAME", help="Its model.")
@click.option("--provider", metavar="NAME", help="Who bills it, such as anthropic.")
@click.option("--type", "interaction_type", metavar="TYPE", help="Of what kind it was, such as coding or writing.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag; may be said several times.")
@click.option("--content", metavar="TEXT", help="How it went, in short.")
@click.option("--input-tokens", type=click.IntRange(0), help="As you know it.")
@click.option("--output-tokens", type=click.IntRange(0), help="As you know it.")
@click.option("--cost", metavar="USD", help="What it cost, as you know it.")
@click.option("--started", metavar="TIME", help="Such as 2026-11-30T09:00:00Z; without it, now.")
@click.option("--ended", metavar="TIME", help="When it ended.")
@json_option
def record(*, as_json: bool, **said: Any) -> None:  # noqa: ANN401  # click's
    """Record a conversation that you had elsewhere, such as at claude.ai, with what it cost.

    It is listed among your sessions. Its tokens and its cost count as reported by you, apart from what was billed.
    """

    async def keep(services: Services, _settings: object) -> None:
        out = shown.recorded_out(await services.facts.record(services.principal, _Said(**said).interaction()))
        if as_json:
            print_json(out.model_dump(mode="json"))
        else:
            print_err(shown.recorded_line(out))

    run(keep)


def _usd(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InvalidRequestError(
            f"must be an amount such as 0.0425, not {one_line(text, _LONGEST)!r}.", argument="cost_usd"
        ) from None
