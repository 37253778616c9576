"""What one user has on all replicas together, leased to each replica in slices without anybody waiting for it."""

import asyncio
import math
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import NamedTuple, Protocol

from cachetools import LRUCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.concurrency import guarded

# How often leases are renewed, and asked for again that were not granted in full.
RENEWAL = timedelta(seconds=1)
# After that, an unanswered claim keeps nobody back any more: the store hangs.
PATIENCE = timedelta(milliseconds=100)
_SLICES = 10  # of what one user may have
_MINUTE = 60.0
_MOST_REMEMBERED = 10_000  # users whose uses are counted by the minute


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How much of a resource one user may have on all replicas together: held at once, or used within a minute."""

    resource: str
    is_rate: bool
    most: int

    @cached_property
    def slice(self) -> float:
        """How much a user may have on a replica beyond what is leased to it."""
        return max(1.0, self.most / _SLICES)

    @cached_property
    def free(self) -> float:
        """How much of a slice is never claimed: half, or less where another use would not fit into the rest."""
        return min(self.slice / 2, self.slice - 1)


class Claim(NamedTuple):
    """What a replica claims for one user: a lease of all that is held there, or of so many more uses."""

    terms: Terms
    user: Hashable
    amount: int


class LeaseStore(Protocol):
    """Counts what is leased to all replicas."""

    async def claim(self, claims: Sequence[Claim]) -> Sequence[int] | None:
        """Claim, and return how much of each is granted; None if the store fails.

        What is held is leased for a few seconds, in place of what was leased to this replica before.
        """
        ...


@dataclass(slots=True, eq=False)
class _Account:
    """What one user has of one resource on this replica: what is leased, and what is owed beyond it.

    What is owed of a rate falls by a slice a minute, so that nothing is ever claimed for a user who needs no more.
    """

    terms: Terms
    user: Hashable
    leased: int = 0
    owed: float = 0
    since: float = 0
    is_asked: bool = False  # a claim is under way
    is_short: bool = False  # the last claim was not granted in full

    @property
    def needs_lease(self) -> bool:
        return self.leased + self.owed > self.terms.free

    @property
    def is_due(self) -> bool:
        """Whether to claim more, or to give back, before the next renewal."""
        is_over = self.owed > self.terms.free and not self.is_short
        is_unused = self.leased > 0 and -self.owed > self.terms.free
        return not self.is_asked and (is_over or is_unused)

    def count(self, had: int, amount: int, now: float) -> None:
        """Count so much more, or less, for a user who held `had`."""
        if self.terms.is_rate:
            # At most a slice: what was used while the store was away need not be paid for afterwards.
            self.owed = min(self.terms.slice, self._owed_at(now) + amount)
        else:
            self.owed = had + amount - self.leased
        self.since = now

    def claim(self, now: float) -> Claim:
        """Say what to claim: no more than is there already, so that no lease is left unused."""
        self.is_asked = True
        if self.terms.is_rate:
            used = self._owed_at(now)
            return Claim(self.terms, self.user, math.floor(used) or math.ceil(used))
        return Claim(self.terms, self.user, int(self.leased + self.owed) if self.needs_lease else 0)

    def grant(self, claim: Claim, granted: int, now: float) -> None:
        """Keep what was granted."""
        self.is_short = granted < claim.amount
        if self.terms.is_rate:
            self.owed, self.since = max(0.0, self._owed_at(now) - granted), now
        else:
            self.owed, self.leased = self.owed + self.leased - granted, granted

    def _owed_at(self, now: float) -> float:
        return max(0.0, self.owed - self.terms.slice / _MINUTE * (now - self.since))


class Leases:
    """Says whether a user may have more on this replica, by what is leased to it.

    A user may have one slice more than that, since nobody waits for a lease; it is claimed once half of the slice is
    used. So whoever needs less costs the store nothing, and on all replicas together a user has at most what may be
    leased, and a slice for each. While the store fails, each replica counts alone.
    """

    def __init__(self, store: LeaseStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._held: dict[tuple[str, Hashable], _Account] = {}  # what is leased or has to be
        self._used = LRUCache[tuple[str, Hashable], _Account](_MOST_REMEMBERED)
        # Sets that keep their order: to claim at once, and with the next renewal.
        self._due: dict[_Account, None] = {}
        self._later: dict[_Account, None] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._has_failed = False
        self._asked_at: float | None = None

    @property
    def is_alone(self) -> bool:
        """Whether this replica counts alone: the store fails, or does not answer in time."""
        asked, now = self._asked_at, self._clock.monotonic()
        return self._has_failed or (asked is not None and now - asked > PATIENCE.total_seconds())

    def allows(self, terms: Terms, user: Hashable, had: int, amount: int) -> bool:
        """Tell whether a user who holds `had` may have so much more."""
        if self.is_alone:
            return True
        account = self._counted(terms, user, had, 0)
        return account.owed + amount <= terms.slice

    def count(self, terms: Terms, user: Hashable, had: int, amount: int) -> None:
        """Count so much more for a user who held `had`, or so much less if it is negative."""
        self._counted(terms, user, had, amount)

    async def claim(self) -> None:
        """Claim and give back what is due."""
        # Not many: only so many users of one process can have half a slice.
        accounts = list(self._due)
        self._due.clear()
        if not accounts and not self._has_failed:
            return
        self._asked_at = self._clock.monotonic()
        claims = [account.claim(self._asked_at) for account in accounts]
        try:
            granted = await self._store.claim(claims)
        finally:
            self._asked_at = None
            for account in accounts:
                account.is_asked = account.is_short = False
        self._has_failed = granted is None
        for account, claim, amount in zip(accounts, claims, granted or (), strict=granted is not None):
            account.grant(claim, amount, self._clock.monotonic())
            self._keep(account)
            if account.is_short:
                self._later[account] = None

    def renew(self) -> None:
        """Let what is leased be renewed, and what was not granted be claimed again."""
        self._due |= dict.fromkeys(self._held.values()) | self._later
        self._later.clear()
        # Also with nothing to claim, to learn when the store works again.
        if self._due or self._has_failed:
            self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Claim in the background until the context ends; what is still leased then expires.

        The tasks also end by flag: on Python 3.11 the library's `wait_for` may swallow a cancellation.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._claim_when_due()), group.create_task(self._renew_often())]
            try:
                yield
            finally:
                self._is_closing = True
                for task in tasks:
                    task.cancel()

    async def _claim_when_due(self) -> None:
        while not self._is_closing:
            await self._wake.wait()
            self._wake.clear()
            await guarded(self.claim())

    async def _renew_often(self) -> None:
        while not self._is_closing:
            await self._clock.sleep(RENEWAL)
            self.renew()  # in memory: there is nothing that fails

    def _counted(self, terms: Terms, user: Hashable, had: int, amount: int) -> _Account:
        kept = self._used if terms.is_rate else self._held
        account = kept.get((terms.resource, user)) or _Account(terms, user)
        account.count(had, amount, self._clock.monotonic())
        self._keep(account)
        return account

    def _keep(self, account: _Account) -> None:
        """Keep an account as long as it says something, and let it be claimed what is due."""
        key = (account.terms.resource, account.user)
        if account.is_due and not self._has_failed:
            self._due[account] = None
            self._wake.set()
        if account.terms.is_rate:
            self._used[key] = account
        elif account.leased or account.needs_lease or account.is_asked:
            self._held[key] = account
        else:
            self._held.pop(key, None)
