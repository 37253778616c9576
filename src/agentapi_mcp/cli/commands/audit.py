"""The commands of the audit log."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from uuid import UUID

import click
from typing_extensions import override

from agentapi_mcp.base.ids import UserId
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.configured import read_settings
from agentapi_mcp.cli.help_pages import CommandGroup
from agentapi_mcp.cli.ids import whole_id
from agentapi_mcp.cli.members import member_id
from agentapi_mcp.cli.options import in_organization, json_option
from agentapi_mcp.cli.outputs import guarded, print_json, run, table
from agentapi_mcp.cli.terminal import print_err, print_out
from agentapi_mcp.core.audit.models import AuditAction, AuditEvent, AuditFilter, AuditOutcome
from agentapi_mcp.environ import environment
from agentapi_mcp.presentation.values import local_time

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.services import Services

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_PAGE = 200


class Since(click.ParamType[datetime]):
    """A point in time, absolute or as an age such as `7d`."""

    name = "time"

    @override
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse an age or an ISO date; a time without a zone is local."""
        text = str(value)
        ago = re.fullmatch(r"(\d{1,5})([mhdw])", text)
        try:
            if ago is not None:
                return datetime.now(UTC) - int(ago[1]) * _UNITS[ago[2]]
            moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no time: say 30m, 12h, 7d or 2w, or a date such as 2026-07-02.", param, ctx)
        return moment if moment.tzinfo is not None else moment.astimezone()


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.option("--since", type=Since(), help="Since 30m, 12h, 7d or 2w ago, or since a date.")
@click.option("--user", metavar="ID|EMAIL", help="Of this user only.")
@click.option("--action", type=click.Choice([str(action) for action in AuditAction]), metavar="NAME", help="Only this.")
@click.option("--outcome", type=click.Choice([str(outcome) for outcome in AuditOutcome]))
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--cursor", help="Go on after a page: its next_cursor, as --json has it.")
@in_organization
@json_option
@click.pass_context
def audit(  # noqa: PLR0913  # one for each option
    context: click.Context,
    *,
    since: datetime | None,
    user: str | None,
    action: str | None,
    outcome: str | None,
    limit: int,
    cursor: str | None,
    org_id: UUID | None,
    as_json: bool,
) -> None:
    """See what happened in your organisation, newest first: who, from where, what, and how it ended."""
    if context.invoked_subcommand is not None:
        return

    async def list_(services: Services, _settings: object) -> None:
        event_filter = AuditFilter(
            user_id=None if user is None else UserId(UUID(await member_id(services, user))),
            action=None if action is None else AuditAction(action),
            outcome=None if outcome is None else AuditOutcome(outcome),
            since=since,
        )
        await _list(services, event_filter, (limit, cursor), as_json=as_json)

    run(list_, org_id=org_id)


@audit.command()
@json_option
def prune(*, as_json: bool) -> None:
    """Drop the months that are older than AGENTAPI_AUDIT_RETENTION_DAYS, as the owner of the tables."""
    guarded(partial(_prune, as_json=as_json))


async def _prune(*, as_json: bool) -> None:
    settings = read_settings()
    maintenance = import_module("agentapi_mcp.app.maintenance")  # slow to import, needed only here
    dropped: tuple[str, ...] = await maintenance.prune_audit_log(settings, environment())
    months = [month.replace("_", "-") for month in dropped]
    if as_json:
        print_json({"dropped": months, "retention_days": settings.audit_retention_days})
    elif months:
        print_out(f"Dropped: {', '.join(months)}.")
    else:
        print_out(f"No month is older than {number_of(settings.audit_retention_days, 'day')}.")


async def _list(services: Services, event_filter: AuditFilter, where: tuple[int, str | None], *, as_json: bool) -> None:
    """Print events: at most so many, after a cursor."""
    limit, cursor = where
    page = await services.audit.list_(services.principal, event_filter, cursor=cursor, limit=min(limit, _PAGE))
    events = list(page.items)
    while page.next_cursor is not None and len(events) < limit:
        left = min(limit - len(events), _PAGE)
        page = await services.audit.list_(services.principal, event_filter, cursor=page.next_cursor, limit=left)
        events += page.items
    if as_json:
        print_json({"events": [event_json(event) for event in events], "next_cursor": page.next_cursor})
        return
    table(("TIME", "ACTION", "OUTCOME", "USER", "FROM", "TARGET", "DETAILS"), [_row(event) for event in events])
    if not events:
        print_err("No event fits.")
    if page.next_cursor is not None:
        print_err(f"There are more; say a higher --limit, --cursor, or narrow with --since. Shown: {len(events)}.")


def event_json(event: AuditEvent) -> dict[str, object]:
    """Return all fields of an event."""
    return {
        "id": str(event.id),
        "at": event.at.isoformat(),
        "action": event.action,
        "outcome": event.outcome,
        "org_id": event.org_id and str(event.org_id),
        "user_id": event.user_id and str(event.user_id),
        "via": event.via,
        "client": event.client,
        "address": event.address,
        "request_id": event.request_id,
        "target": event.target and {"kind": event.target.kind, "id": event.target.id},
        "details": dict(event.details),
    }


def _id_of(text: str) -> UUID | str:
    return text if (whole := whole_id(text)) is None else UUID(whole)


def _row(event: AuditEvent) -> tuple[object, ...]:
    return (
        local_time(event.at, seconds=True),
        event.action,
        event.outcome,
        event.user_id,
        ", ".join(part for part in (event.via, event.address, event.client) if part),
        event.target and (event.target.kind, _id_of(event.target.id)),
        " ".join(f"{name}={value}" for name, value in event.details.items()),
    )
