"""Coalesce unauthenticated and refused events per minute, to bound the audit log."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from datetime import timedelta

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.ids import OrgId, new_id
from agentapi_mcp.core.audit.models import AuditEvent

_WITHIN = timedelta(minutes=1)
# For each organisation, so that one cannot use up the bound of another.
_MOST_KINDS = 100


class EventCoalescer:
    """Passes on the first event of a kind per minute and counts the others; kinds are bounded for each organisation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = 0.0
        self._counted: dict[Hashable, tuple[AuditEvent, int]] = {}
        self._kinds = Counter[OrgId | None]()

    def add(self, event: AuditEvent) -> AuditEvent | None:
        """Return the event to write now, None if it was only counted."""
        if not self._counted:
            self._since = self._clock.monotonic()
        kind = _kind(event)
        if kind not in self._counted and self._kinds[event.org_id] >= _MOST_KINDS:
            # Without its details: further kinds share one event, so that variations of a target cannot fill the log.
            event = AuditEvent(
                id=event.id, at=event.at, action=event.action, outcome=event.outcome, org_id=event.org_id
            )
            kind = _kind(event)
        if kind not in self._counted:
            self._kinds[event.org_id] += 1
        first, repeats = self._counted.get(kind, (event, -1))
        self._counted[kind] = (first, repeats + 1)
        return event if repeats < 0 else None

    def due_in(self) -> timedelta | None:
        """Return the time until the current minute ends, None when nothing is counted."""
        if not self._counted:
            return None
        return max(timedelta(0), _WITHIN - timedelta(seconds=self._clock.monotonic() - self._since))

    def drain(self) -> tuple[AuditEvent, ...]:
        """Return one event for each kind with the count of the others, and reset."""
        counted, self._counted = self._counted, {}
        self._kinds.clear()
        return tuple(
            replace(first, id=new_id(), at=self._clock.now(), details={**first.details, "count": repeats})
            for first, repeats in counted.values()
            if repeats > 0
        )


def _kind(event: AuditEvent) -> Hashable:
    actor = (event.org_id, event.user_id, event.via, event.address)
    return event.action, *actor, event.target, tuple(event.details.items())
