"""The audit log: events are written in batches, those of administrative changes at once."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import islice
from typing import Self

from cachetools import TTLCache

from agentapi_mcp.base import log_context
from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import (
    InvalidRequestError,
    PermissionDeniedError,
    StoreError,
    StoreMismatchError,
    StoreUnavailableError,
)
from agentapi_mcp.base.ids import new_id
from agentapi_mcp.base.paging import Page
from agentapi_mcp.base.text import one_line
from agentapi_mcp.core.audit.event_coalescing import EventCoalescer
from agentapi_mcp.core.audit.models import (
    AWAITED,
    COUNTED,
    AuditAction,
    AuditDetails,
    AuditEvent,
    AuditFilter,
    AuditOutcome,
    AuditTarget,
    EventOwner,
)
from agentapi_mcp.core.audit.ports import AuditStore
from agentapi_mcp.core.identity.principals import Action, Principal, require

_log = logging.getLogger(__name__)
_BATCH_DELAY = timedelta(seconds=0.5)
_RETRY = timedelta(seconds=2)
_CLOSE_WITHIN = timedelta(seconds=3)
_SIGN_IN_EVERY = timedelta(hours=1)
_BATCH = 500
_MAX_QUEUED = 10_000
_MAX_PAGE = 200
_LONGEST = 120
_DETAILS = frozenset(AuditDetails.__annotations__)
# After these errors the batch is retried: the database can recover. Any other error would repeat for ever.
_UNREACHABLE = (StoreUnavailableError, StoreMismatchError)


class AuditLog:
    """Record and list audit events; queued events are written while `open` is active.

    Only `operator` also reads events without an organisation. A sign-in is recorded anew within the hour when there
    were `max_remembered` others since.
    """

    def __init__(self, store: AuditStore, clock: Clock, *, operator: Principal, max_remembered: int = 10_000) -> None:
        self._store = store
        self._clock = clock
        self._operator = operator
        self._queue: deque[AuditEvent] = deque()
        self._coalescer = EventCoalescer(clock)
        self._signed_in = TTLCache[object, None](max_remembered, _SIGN_IN_EVERY.total_seconds(), timer=clock.monotonic)
        self._wake = asyncio.Event()
        # One writer at a time: `flush` and the background task take events from the same end of the queue.
        self._writing = asyncio.Lock()
        self._lost = 0
        self._is_unreachable = False

    async def record(
        self,
        principal: Principal | None,
        action: AuditAction,
        *,
        target: AuditTarget | None = None,
        outcome: AuditOutcome = AuditOutcome.OK,
        details: AuditDetails | None = None,
        whose: EventOwner | None = None,
    ) -> None:
        """Record an action of a principal, None if not authenticated; client and address come from the log context.

        `whose` says in which organisation's log it stands, if not in the principal's.
        Waits for the database only after a successful change of members, settings, tokens or keys.

        Raises:
            StoreUnavailableError: the event of such a change is not stored yet; do not report success.
        """
        event = self.event(principal, action, target=target, outcome=outcome, details=details, whose=whose)
        if action in COUNTED:
            first = self._coalescer.add(event)
            if first is not None:
                self._enqueue(first)
        elif action in AWAITED and outcome is AuditOutcome.OK:
            await self._write(event)
        else:
            self._enqueue(event)

    def event(
        self,
        principal: Principal | None,
        action: AuditAction,
        *,
        target: AuditTarget | None = None,
        outcome: AuditOutcome = AuditOutcome.OK,
        details: AuditDetails | None = None,
        whose: EventOwner | None = None,
    ) -> AuditEvent:
        """Return an event to be stored by the caller, in the transaction that it belongs to."""
        return AuditEvent(
            id=new_id(),
            at=self._clock.now(),
            action=action,
            outcome=outcome,
            org_id=whose.org_id if whose is not None else principal and principal.org_id,
            user_id=whose.user_id if whose is not None else principal and principal.user_id,
            via=principal and one_line(principal.via, _LONGEST),
            client=log_context.client.get(),
            address=log_context.address.get(),
            request_id=log_context.request_id.get(),
            target=target and AuditTarget(target.kind, one_line(target.id, _LONGEST)),
            details=_clean(details),
        )

    async def denied(self, principal: Principal, error: PermissionDeniedError, target: AuditTarget) -> None:
        """Record a denied action."""
        details = AuditDetails(needs=error.scope or error.action, reason="role" if error.scope is None else "scope")
        await self.record(
            principal, AuditAction.PERMISSION_DENIED, target=target, outcome=AuditOutcome.REFUSED, details=details
        )

    async def signed_in(self, principal: Principal) -> None:
        """Record a sign-in, at most once an hour for each credential and address."""
        key = (principal.user_id, principal.org_id, principal.via, log_context.address.get())
        if key in self._signed_in:
            return
        self._signed_in[key] = None
        await self.record(principal, AuditAction.SIGN_IN)

    async def list_(
        self, principal: Principal, criteria: AuditFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[AuditEvent]:
        """Page through the events of the principal's organisation, newest first."""
        require(principal, Action.READ_AUDIT)
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidRequestError(f"must be between 1 and {_MAX_PAGE}.", argument="limit")
        with suppress(StoreError):  # the query below raises the same error
            await self.flush()
        is_operator = (principal.user_id, principal.org_id) == (self._operator.user_id, self._operator.org_id)
        page = await self._store.list_(principal, criteria, include_unowned=is_operator, cursor=cursor, limit=limit)
        if cursor is None:  # once for a listing, not for each of its pages
            await self.record(principal, AuditAction.AUDIT_READ)
        return page

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Write queued events in the background, and the rest at the end."""
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._write_continuously())
            try:
                yield self
            finally:
                writer.cancel()
                await self._flush_at_close()

    async def flush(self) -> None:
        """Write all queued and coalesced events.

        Raises:
            StoreError: the database is unavailable; the events stay queued.
        """
        for event in self._coalescer.drain():
            self._enqueue(event)
        async with self._writing:
            while self._queue or self._lost:
                await self._write_batch()

    # --- writing

    def _enqueue(self, event: AuditEvent) -> None:
        if len(self._queue) >= _MAX_QUEUED:
            self._lost += 1
            return
        self._queue.append(event)
        self._wake.set()

    async def _write(self, event: AuditEvent) -> None:
        try:
            # Not through the queue: the caller learns whether this event is stored.
            await self._store.append([event])
        except StoreError as exc:
            self._enqueue(event)
            raise StoreUnavailableError(
                "It is done, but could not be written into the audit log yet; look whether it is as you want it before "
                "you try again."
            ) from exc

    async def _write_batch(self) -> None:
        batch, lost = list(islice(self._queue, _BATCH)), self._lost
        losses = [self._loss(lost)] if lost else []
        try:
            await self._store.append([*batch, *losses])
        except _UNREACHABLE:
            raise
        except Exception:  # a retry would fail again, and block the events behind
            self._lost += len(batch)
            self._dequeue(batch)
            raise
        # Subtracted, not reset: more may have been lost during the write.
        self._lost -= lost
        self._dequeue(batch)

    def _dequeue(self, batch: Sequence[AuditEvent]) -> None:
        for _ in batch:
            self._queue.popleft()

    def _loss(self, count: int) -> AuditEvent:
        _log.error("audit_events_lost", extra={"count": count})
        details = {"count": count}
        return AuditEvent(
            id=new_id(),
            at=self._clock.now(),
            action=AuditAction.EVENTS_LOST,
            outcome=AuditOutcome.FAILED,
            details=details,
        )

    async def _write_continuously(self) -> None:
        while True:
            due = self._coalescer.due_in()
            await (self._wake.wait() if due is None else first_of(self._wake.wait(), self._clock.sleep(due)))
            await self._clock.sleep(_RETRY if self._is_unreachable else _BATCH_DELAY)
            # Before the write: an event that arrives during it starts another round.
            self._wake.clear()
            try:
                await self._write_queued()
            except Exception as exc:  # noqa: BLE001  # outermost handler of the task: events stay queued and are retried
                if not self._is_unreachable:
                    context = {"events": len(self._queue), "error": str(exc)}
                    _log.warning("audit_waits", extra=context, exc_info=None if isinstance(exc, _UNREACHABLE) else exc)
                self._is_unreachable = True
                self._wake.set()
            else:
                self._is_unreachable = False

    async def _write_queued(self) -> None:
        if self._coalescer.due_in() == timedelta(0):
            await self.flush()
            return
        async with self._writing:
            while self._queue or self._lost:
                await self._write_batch()

    async def _flush_at_close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_WITHIN.total_seconds()):
                await self.flush()
        except (StoreUnavailableError, TimeoutError):
            pass
        except Exception as exc:  # noqa: BLE001  # must not prevent other resources from closing
            _log.error("audit_not_written", exc_info=exc)
        if self._queue or self._lost:
            _log.error("audit_events_lost", extra={"count": len(self._queue) + self._lost})


def _clean(details: AuditDetails | None) -> Mapping[str, str | float]:
    given: Mapping[str, object] = details or {}
    cleaned: dict[str, str | float] = {}
    for name, value in given.items():
        if name not in _DETAILS:
            continue
        if isinstance(value, str):
            cleaned[name] = one_line(value, _LONGEST)
        elif isinstance(value, int | float) and math.isfinite(value):
            cleaned[name] = value
    return cleaned
