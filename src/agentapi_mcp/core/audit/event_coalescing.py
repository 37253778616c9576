"""Events that somebody outside can make happen at will: counted within a minute, so that nobody fills the disk."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.audit.models import AuditEvent

_WITHIN = timedelta(minutes=1)
_MOST_KINDS = 100


class EventCoalescer:
    """Passes the first event of a kind in a minute on, counts the others; an organisation's past 100 kinds are one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = 0.0
        self._counted: dict[Hashable, tuple[AuditEvent, int]] = {}
        self._kinds = Counter[OrgId | None]()

    def add(self, event: AuditEvent) -> AuditEvent | None:
        """Return what is to be written now, None when the event is counted."""
        if not self._counted:
            self._since = self._clock.monotonic()
        kind = _kind(event)
        if kind not in self._counted and self._kinds[event.org_id] >= _MOST_KINDS:
            event = AuditEvent(
                id=event.id, at=event.at, action=event.action, outcome=event.outcome, org_id=event.org_id
            )
            kind = _kind(event)
        if kind not in self._counted:
            self._kinds[event.org_id] += 1
        first, others = self._counted.get(kind, (event, -1))
        self._counted[kind] = (first, others + 1)
        return event if others < 0 else None

    def due_in(self) -> timedelta | None:
        """Return how long it is until the minute is over, None when nothing is counted."""
        if not self._counted:
            return None
        return max(timedelta(0), _WITHIN - timedelta(seconds=self._clock.monotonic() - self._since))

    def take(self) -> tuple[AuditEvent, ...]:
        """Return one event with the count of the others for each kind, and begin anew."""
        counted, self._counted = self._counted, {}
        self._kinds.clear()
        return tuple(
            replace(first, id=new_id(), at=self._clock.now(), details={**first.details, "count": others})
            for first, others in counted.values()
            if others > 0
        )


def _kind(event: AuditEvent) -> Hashable:
    who = (event.org_id, event.user_id, event.via, event.address)
    return event.action, *who, event.target, tuple(event.details.items())
