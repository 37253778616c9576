"""Answers what was used in a period, and what it cost."""

from datetime import UTC, datetime, time, timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import InvalidRequestError
from agentapi_mcp.base.store_waits import store_answers_within
from agentapi_mcp.core.identity.principals import Action, Principal, refusal, require
from agentapi_mcp.core.usage.models import (
    MOST_GROUPS,
    USUAL_GROUPS,
    UsageGroup,
    UsageQuery,
    UsageReport,
    UsageSpan,
    UsageSums,
)
from agentapi_mcp.core.usage.periods import read_bounds, read_period
from agentapi_mcp.core.usage.ports import UsageStore

RECENT = timedelta(days=30)
_DAY = timedelta(days=1)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # before there was anything
_MOST_AGENTS = 10_000
# A year of a great organisation takes half a second; who waits longer is told that the database is slow.
_WITHIN = 15.0


class Usage:
    """Sums of the ledger: the caller's own, or for administrators those of their organisation."""

    def __init__(self, store: UsageStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def query(
        self, *, since: str | None, until: str | None, by: UsageGroup | None, whole: bool, limit: int | None = None
    ) -> UsageQuery:
        """Make a query of what a caller says: by default the last thirty days, and a hundred groups.

        Raises:
            InvalidRequestError: a text is neither a period nor a time.
        """
        now = self._clock.now()
        begins, ends = read_bounds(since, until, now)
        return UsageQuery(
            since=midnight(now) - RECENT if begins is None else begins,
            until=ends,
            by=by,
            whole=whole,
            limit=USUAL_GROUPS if limit is None else limit,
        )

    def query_of(self, period: str, by: UsageGroup | None) -> UsageQuery:
        """Make a query of a period by its name.

        Raises:
            InvalidRequestError: there is no period of this name.
        """
        found = read_period(period, self._clock.now())
        return UsageQuery(since=found.since, until=found.until, by=by, limit=MOST_GROUPS)

    async def report(self, principal: Principal, query: UsageQuery) -> UsageReport:
        """Add up a period, and its groups.

        Raises:
            PermissionDeniedError: the principal may not read sessions, or for the whole organisation its numbers.
            InvalidRequestError: the period lies in the future or ends before it begins, or `limit` is out of bounds.
            StoreUnavailableError: the store does not answer in time.
        """
        whole = query.whole or query.by is UsageGroup.MEMBER
        require(principal, Action.READ_ORGANIZATION if whole else Action.READ_SESSIONS)
        now = self._clock.now()
        since, until = _checked(query, now)
        async with store_answers_within(_WITHIN):
            found = await self._store.sums(
                principal, split(since, until, now), query.by, whole=whole, limit=query.limit
            )
        rows = found.rows
        if query.by is UsageGroup.DAY:
            rows = tuple(sorted(rows, key=lambda row: row.key or ""))
        return UsageReport(
            since=since,
            until=min(until, now),
            by=query.by,
            whole=whole,
            total=found.total,
            rows=rows,
            left_out=found.groups - len(found.rows),
        )

    async def of_agents(self, principal: Principal) -> dict[str, UsageSums]:
        """Add up the last thirty days by agent, as far as the principal may see: nothing without a right."""
        whole = refusal(principal, Action.READ_ORGANIZATION) is None
        if not whole and refusal(principal, Action.READ_SESSIONS) is not None:
            return {}
        now = self._clock.now()
        # Whole days, whose sums are there: lists of agents are read often.
        span = split(midnight(now) - RECENT, now, now)
        found = await self._store.sums(principal, span, UsageGroup.AGENT, whole=whole, limit=_MOST_AGENTS)
        return {row.key: row.sums for row in found.rows if row.key is not None}


def midnight(at: datetime) -> datetime:
    """Return when the day of a moment began in UTC."""
    return datetime.combine(at.astimezone(UTC).date(), time(), UTC)


def split(since: datetime, until: datetime, now: datetime) -> UsageSpan:
    """Divide a period into whole days in UTC, and what is before and after them.

    What has not begun yet makes today a whole day, and the store's clock may be a little ahead.
    """
    is_open = until >= now
    if is_open:
        until = midnight(now) + 2 * _DAY
    first = midnight(since) if since == midnight(since) else midnight(since) + _DAY
    last = midnight(until)
    if first > last:  # within one day
        days = (first.date(), first.date())
        return UsageSpan(since=since, until=until, days=days, head_ends=until, tail_begins=until)
    days = (first.date(), last.date())
    return UsageSpan(since=since, until=until, days=days, head_ends=first, tail_begins=last, is_open=is_open)


def _checked(query: UsageQuery, now: datetime) -> tuple[datetime, datetime]:
    if not 1 <= query.limit <= MOST_GROUPS:
        raise InvalidRequestError(f"must be between 1 and {MOST_GROUPS}.", argument="limit")
    since, until = max(query.since, _EARLIEST), now if query.until is None else query.until
    if since > now:
        raise InvalidRequestError(f"is in the future: now it is {now:%Y-%m-%d %H:%M} UTC.", argument="since")
    if until <= since:
        raise InvalidRequestError(f"must be after the beginning, {since:%Y-%m-%d %H:%M} UTC.", argument="until")
    return since, until
