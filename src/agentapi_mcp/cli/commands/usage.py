"""The command for usage: what was used in a period, and what it cost."""

from __future__ import annotations

from uuid import UUID

import click

from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.cli.options import in_organization, json_option
from agentapi_mcp.cli.outputs import print_json, run, table
from agentapi_mcp.cli.terminal import is_plain, output_width, print_err, print_out
from agentapi_mcp.core.usage.models import MOST_GROUPS, USUAL_GROUPS, UsageGroup, UsageReport, UsageRow
from agentapi_mcp.core.usage.periods import PERIODS

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.cli import usage_tables as tables
    from agentapi_mcp.core.services import Services
    from agentapi_mcp.presentation import usage as presented
    from agentapi_mcp.presentation import usage_words as words
else:
    presented = LazyModule("agentapi_mcp.presentation.usage")
    tables = LazyModule("agentapi_mcp.cli.usage_tables")
    words = LazyModule("agentapi_mcp.presentation.usage_words")

_TIMES = f"{', '.join(PERIODS)}, 12h, 2w, a day, month or year such as 2026-11, or a time; days are those of UTC."


def _periods(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in PERIODS if name.startswith(incomplete)]


@click.command(epilog=f"A TIME is one of {_TIMES}")
@click.option(
    "--by", type=click.Choice([str(group) for group in UsageGroup]), help="In groups; member is for administrators."
)
@click.option(
    "--since", metavar="TIME", shell_complete=_periods, help="From when; without it from 30 days ago, the whole day."
)
@click.option("--until", metavar="TIME", shell_complete=_periods, help="Until when, with that day or month.")
@click.option("--everybody", "whole", is_flag=True, help="Of all in the organisation, for its administrators.")
@click.option("--limit", type=click.IntRange(1, MOST_GROUPS), default=USUAL_GROUPS, show_default=True, help="Groups.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@in_organization
@json_option
def usage(  # noqa: PLR0913  # one for each option
    *,
    by: str | None,
    since: str | None,
    until: str | None,
    whole: bool,
    limit: int,
    as_csv: bool,
    org_id: UUID | None,
    as_json: bool,
) -> None:
    """See what was used in a period and what it cost, also by agent, model, day and more.

    It is your own usage, and what you have deleted is in it.
    """
    if as_csv and as_json:
        raise click.UsageError("Say --json or --csv, not both.")

    async def show(services: Services, _settings: object) -> None:
        query = services.usage.query(
            since=since, until=until, by=None if by is None else UsageGroup(by), whole=whole, limit=limit
        )
        report = await services.usage.report(services.principal, query)
        if as_json:
            print_json(presented.usage_out(report).model_dump(mode="json"))
        elif as_csv:
            print_out(tables.csv_text(report), end="")
        else:
            _print(report)
        remark = words.left_out_words(report)
        if remark is not None and not as_json:
            print_err(remark)

    run(show, org_id=org_id)


def _print(report: UsageReport) -> None:
    print_out(f"{words.period_words(report)}: {words.sums_words(report.total)}.")
    if report.by is None or not report.rows:
        return
    heading = (str(report.by).upper(), *tables.COLUMNS)
    rows = [tables.row_cells(row, report.by) for row in report.rows]
    total = ("TOTAL", *tables.row_cells(UsageRow(key="", sums=report.total), None)[1:])
    if report.total.reported.interactions and (is_plain() or output_width() >= tables.ROOM):
        heading, total = (*heading, "REPORTED"), (*total, tables.reported_cell(report.total))
        rows = [(*row, tables.reported_cell(each.sums)) for row, each in zip(rows, report.rows, strict=True)]
    drawn = [] if is_plain() else tables.bars(report.rows, output_width())
    if drawn:
        heading, total = (*heading, ""), (*total, "")
        rows = [(*row, bar) for row, bar in zip(rows, drawn, strict=True)]
    table(heading, [*rows, total])
