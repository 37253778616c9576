"""The audit log: written in batches where nobody is to wait for it, at once where success is told only then."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
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
)
from agentapi_mcp.core.audit.ports import AuditStore
from agentapi_mcp.core.identity.principals import Action, Principal, require

_log = logging.getLogger(__name__)
_GATHER = timedelta(seconds=0.5)
_RETRY = timedelta(seconds=2)
_LAST_TRY = timedelta(seconds=3)
_KEEP_EVERY = timedelta(days=1)
_SIGN_IN_EVERY = timedelta(hours=1)
_BATCH = 500
_MOST_WAITING = 10_000
MOST_REMEMBERED = 10_000
_MAX_PAGE = 200
_LONGEST = 120
_DETAILS = frozenset(AuditDetails.__annotations__)
# Of these the database can be had again; another refusal would be the same for ever.
_AWAY = (StoreUnavailableError, StoreMismatchError)

Prune = Callable[[datetime], Awaitable[object]]


class AuditLog:
    """What happened is written down in `open`; only the operator, whose server it is, also reads what is nobody's.

    `prune` drops what was before a moment, where this process may do that.
    """

    def __init__(
        self, store: AuditStore, clock: Clock, *, operator: Principal, retention: timedelta, prune: Prune | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._operator = operator
        self._retention = retention
        self._prune = prune
        self._waiting: deque[AuditEvent] = deque()
        self._tally = EventCoalescer(clock)
        self._signed_in = TTLCache[object, None](MOST_REMEMBERED, _SIGN_IN_EVERY.total_seconds(), timer=clock.monotonic)
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._kept_at: datetime | None = None
        self._lost = 0
        self._is_away = False

    async def record(
        self,
        principal: Principal | None,
        action: AuditAction,
        *,
        target: AuditTarget | None = None,
        outcome: AuditOutcome = AuditOutcome.OK,
        details: AuditDetails | None = None,
    ) -> None:
        """Record what a principal did, None where nobody is known; from where is known by the context.

        It waits for the database only where an administrative change or one of tokens or keys succeeded.

        Raises:
            StoreUnavailableError: such a change is not written down yet; its success is not to be told.
        """
        event = AuditEvent(
            id=new_id(),
            at=self._clock.now(),
            action=action,
            outcome=outcome,
            org_id=principal and principal.org_id,
            user_id=principal and principal.user_id,
            via=principal and one_line(principal.via, _LONGEST),
            client=log_context.client.get(),
            address=log_context.address.get(),
            request_id=log_context.request_id.get(),
            target=target and AuditTarget(target.kind, one_line(target.id, _LONGEST)),
            details=_clean(details),
        )
        if action in COUNTED:
            first = self._tally.add(event)
            if first is not None:
                self._put(first)
        elif action in AWAITED and outcome is AuditOutcome.OK:
            await self._write(event)
        else:
            self._put(event)

    async def denied(self, principal: Principal, error: PermissionDeniedError, target: AuditTarget) -> None:
        """Record that somebody may not do what they tried."""
        details = AuditDetails(needs=error.scope or error.action, reason="role" if error.scope is None else "scope")
        await self.record(
            principal, AuditAction.PERMISSION_DENIED, target=target, outcome=AuditOutcome.REFUSED, details=details
        )

    async def signed_in(self, principal: Principal) -> None:
        """Record that somebody is here: once an hour for each way in and address."""
        key = (principal.user_id, principal.org_id, principal.via, log_context.address.get())
        if key in self._signed_in:
            return
        self._signed_in[key] = None
        await self.record(principal, AuditAction.SIGN_IN)

    async def list_(
        self, principal: Principal, asked: AuditFilter, *, cursor: str | None = None, limit: int = 50
    ) -> Page[AuditEvent]:
        """Page through the events of the principal's organisation, newest first."""
        require(principal, Action.READ_AUDIT)
        if not 1 <= limit <= _MAX_PAGE:
            raise InvalidRequestError(f"must be between 1 and {_MAX_PAGE}.", argument="limit")
        with suppress(StoreError):  # reading will tell
            await self.flush()
        is_operator = (principal.user_id, principal.org_id) == (self._operator.user_id, self._operator.org_id)
        page = await self._store.list_(principal, asked, nobodys=is_operator, cursor=cursor, limit=limit)
        if cursor is None:
            await self.record(principal, AuditAction.AUDIT_READ)
        return page

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Write in the background, and at the end all that waits."""
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._keep_writing())
            try:
                yield self
            finally:
                writer.cancel()
                await self._leave()

    async def flush(self) -> None:
        """Write all that waits and is counted.

        Raises:
            StoreError: it waits on, since the database is away.
        """
        for event in self._tally.take():
            self._put(event)
        async with self._writing:
            while self._waiting or self._lost:
                await self._write_batch()

    # --- writing

    def _put(self, event: AuditEvent) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(event)
        self._wake.set()

    async def _write(self, event: AuditEvent) -> None:
        try:
            await self._store.append([event])
        except StoreError as exc:
            self._put(event)
            raise StoreUnavailableError(
                "It is done, but could not be written into the audit log yet; look whether it is as you want it before "
                "you try again."
            ) from exc

    async def _write_batch(self) -> None:
        batch, lost = list(islice(self._waiting, _BATCH)), self._lost
        told = [self._loss(lost)] if lost else []
        try:
            await self._store.append([*batch, *told])
        except _AWAY:
            raise
        except Exception:  # what is refused for another reason would be refused for ever
            self._lost += len(batch)
            self._forget(batch)
            raise
        self._lost -= lost
        self._forget(batch)

    def _forget(self, batch: Sequence[AuditEvent]) -> None:
        for _ in batch:
            self._waiting.popleft()

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

    async def _keep_writing(self) -> None:
        while True:
            due = self._tally.due_in()
            await (self._wake.wait() if due is None else first_of(self._wake.wait(), self._clock.sleep(due)))
            await self._clock.sleep(_RETRY if self._is_away else _GATHER)
            self._wake.clear()
            try:
                await self._keep_partitions()
                await self._write_waiting()
            except Exception as exc:  # noqa: BLE001  # the outermost point of the task: it waits, and is tried again
                if not self._is_away:
                    said = {"events": len(self._waiting), "error": str(exc)}
                    _log.warning("audit_waits", extra=said, exc_info=None if isinstance(exc, _AWAY) else exc)
                self._is_away = True
                self._wake.set()
            else:
                self._is_away = False

    async def _write_waiting(self) -> None:
        if self._tally.due_in() == timedelta(0):
            await self.flush()
            return
        async with self._writing:
            while self._waiting or self._lost:
                await self._write_batch()

    async def _keep_partitions(self) -> None:
        now = self._clock.now()
        if self._kept_at is not None and now - self._kept_at < _KEEP_EVERY:
            return
        try:
            await self._store.keep_partitions(now)
            before = now - self._retention
            if self._prune is not None and await self._store.has_expired(before):
                await self._prune(before)
        except StoreUnavailableError:
            raise
        except StoreError as exc:  # the default partition takes what comes
            _log.warning("audit_partitions_not_kept", extra={"error": str(exc)})
        self._kept_at = now

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(_LAST_TRY.total_seconds()):
                await self.flush()
        except (StoreUnavailableError, TimeoutError):
            pass
        except Exception as exc:  # noqa: BLE001  # it is no reason not to close what else is open
            _log.error("audit_not_written", exc_info=exc)
        if self._waiting or self._lost:
            _log.error("audit_events_lost", extra={"count": len(self._waiting) + self._lost})


def _clean(details: AuditDetails | None) -> Mapping[str, str | float]:
    said: Mapping[str, object] = details or {}
    kept: dict[str, str | float] = {}
    for name, value in said.items():
        if name not in _DETAILS:
            continue
        if isinstance(value, str):
            kept[name] = one_line(value, _LONGEST)
        elif isinstance(value, int | float) and math.isfinite(value):
            kept[name] = value
    return kept
