"""What users can hold or use up, and the share of it that one user and one organisation may have."""

from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import NamedTuple

from cachetools import LRUCache

from agentapi_mcp.base.clock import Clock
from agentapi_mcp.base.errors import LimitExceededError
from agentapi_mcp.core.identity.leases import Leases, Terms
from agentapi_mcp.core.identity.principals import Principal

_MINUTE = 60.0
_NO_BOUND = float("inf")
# How many times what is left free one user, and one organisation, may have: while others have up to half, and beyond.
_USER_FACTORS = (7, 1)
_ORG_FACTORS = (15, 2)
_MOST_REMEMBERED = 10_000  # users whose uses are counted by the minute


class Resource(StrEnum):
    """What a user can hold or use up."""

    REQUESTS = "requests"
    SEARCHES = "searches"
    KEY_PAGES = "key_pages"
    OPEN_REQUESTS = "open_requests"
    BODY_BYTES = "body_bytes"
    STREAMS = "streams"
    SUBSCRIPTIONS = "subscriptions"
    RUNNING_TURNS = "running_turns"
    RUNNING_BYTES = "running_bytes"
    DATABASE = "database"
    CONVERSATIONS = "conversations"
    CLIENTS = "clients"
    CLIENT_SESSIONS = "client_sessions"
    KEY_LINKS = "key_links"
    TOKENS = "tokens"
    TASKS = "tasks"
    RATINGS = "ratings"
    RECORDED = "recorded"


class Measure(StrEnum):
    """How a resource is counted: what is held at once, used within a minute, rows of the database, or a line."""

    HELD = "held"
    RATE = "rate"
    ROWS = "rows"
    QUEUED = "queued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How a resource is shared.

    `capacity` is all that one process has, where no setting says otherwise; of rows there is no such bound. A user
    never has more than `user`, if that is set, and an organisation no more than its own limit `max_RESOURCE`.
    What `is_leased` is taken one at a time, and a user has no more of it on all replicas together than on one. `what`
    and `mend` are words for who is refused, and `wait` says when to come again, if waiting helps.
    """

    measure: Measure
    what: str
    mend: str
    wait: timedelta | None
    capacity: int | None = None
    user: int | None = None
    is_leased: bool = False


def _rows(user: int, what: str, mend: str) -> Share:
    return Share(measure=Measure.ROWS, what=what, mend=mend, wait=None, user=user)


SHARES: Mapping[Resource, Share] = {
    Resource.REQUESTS: Share(
        measure=Measure.RATE,
        capacity=12_000,
        what="requests a minute",
        mend="send fewer of them",
        wait=timedelta(seconds=5),
        is_leased=True,
    ),
    Resource.SEARCHES: Share(
        measure=Measure.RATE,
        capacity=1_200,
        what="searches a minute",
        mend="search less often",
        wait=timedelta(seconds=5),
        is_leased=True,
    ),
    Resource.KEY_PAGES: Share(
        measure=Measure.RATE,
        capacity=600,
        what="requests for pages a minute",
        mend="open them less often",
        wait=timedelta(seconds=5),
        user=60,
        is_leased=True,
    ),
    Resource.OPEN_REQUESTS: Share(
        measure=Measure.HELD,
        capacity=1_000,
        what="open requests and streams",
        mend="close one, or wait for an answer",
        wait=timedelta(seconds=1),
        is_leased=True,
    ),
    # Once a body is there, it is parsed and let go.
    Resource.BODY_BYTES: Share(
        measure=Measure.HELD,
        capacity=128 * 1024 * 1024,
        what="bytes of requests that arrive",
        mend="send fewer large requests at once",
        wait=timedelta(seconds=1),
    ),
    Resource.STREAMS: Share(
        measure=Measure.HELD,
        capacity=1_000,
        what="open streams",
        mend="close one",
        wait=timedelta(seconds=5),
        user=100,
    ),
    Resource.SUBSCRIPTIONS: Share(
        measure=Measure.HELD,
        capacity=50_000,
        what="watched resources",
        mend="unsubscribe from some",
        wait=timedelta(seconds=5),
        user=2_000,
    ),
    Resource.RUNNING_TURNS: Share(
        measure=Measure.HELD,
        capacity=1_000,
        what="running turns",
        mend="wait until one has ended, or cancel one",
        wait=timedelta(seconds=5),
    ),
    Resource.RUNNING_BYTES: Share(
        measure=Measure.HELD,
        capacity=256 * 1024 * 1024,
        what="bytes of messages of running turns",
        mend="wait until one has ended, or cancel one",
        wait=timedelta(seconds=5),
    ),
    # Most of the pool (stores/postgres/connections.py); what is more waits in a line of its user's own.
    Resource.DATABASE: Share(measure=Measure.QUEUED, what="database connections", mend="wait", wait=None),
    Resource.CONVERSATIONS: Share(measure=Measure.ROWS, what="conversations", mend="delete some", wait=None),
    # A further one of these takes the place of the one that was used least recently.
    Resource.CLIENTS: _rows(100, "remembered clients", "the oldest makes room"),
    Resource.CLIENT_SESSIONS: _rows(200, "sessions of clients", "the oldest ends"),
    Resource.KEY_LINKS: _rows(20, "open links to the page for keys", "the oldest ends"),
    Resource.TOKENS: _rows(100, "personal tokens", "revoke one that is not needed"),
    # More than the turns that a user may have running, so that the oldest is one whose turn has ended.
    Resource.TASKS: _rows(1_000, "tasks of MCP clients", "the oldest ends"),
    # check_facts (0019_facts.sql) counts both.
    Resource.RATINGS: _rows(10_000, "rated turns", "delete sessions that are not needed"),
    Resource.RECORDED: _rows(10_000, "recorded conversations", "delete some"),
}


def most_rows(resource: Resource) -> int:
    """Return how many rows of a resource one user may have."""
    most = SHARES[resource].user
    if most is None:
        raise AssertionError(resource)
    return most


class Holder(NamedTuple):
    """Who holds a resource: a user of an organisation, or whoever is told apart by something else than an account."""

    user: Hashable
    org: Hashable = None


def holder_of(principal: Principal) -> Holder:
    """Return a principal as a holder."""
    return Holder(principal.user_id, principal.org_id)


class _Level(NamedTuple):
    """How much of a resource is in use: by everybody, by one user, and by that user's organisation."""

    total: float
    user: float
    org: float


class _Held:
    """Counts what is held at once."""

    def __init__(self) -> None:
        self._total = 0
        self._users = dict[Hashable, int]()
        self._orgs = dict[Hashable, int]()

    def level(self, holder: Holder) -> _Level:
        return _Level(self._total, self._users.get(holder.user, 0), self._orgs.get(holder.org, 0))

    def add(self, holder: Holder, amount: int) -> None:
        self._total += amount
        for counts, key in ((self._users, holder.user), (self._orgs, holder.org)):
            held = counts.get(key, 0) + amount
            if held:
                counts[key] = held
            else:  # so that those who hold nothing take no memory
                counts.pop(key, None)


class _Used:
    """Counts uses, and forgets them evenly: all that one user may use within a minute.

    It is the meter of a leaky bucket (ITU-T I.371, annex A), one for all, one a user and one an organisation.
    """

    def __init__(self, clock: Clock, capacity: int, user: int) -> None:
        self._clock = clock
        self._total = _Bucket(capacity / _MINUTE)
        self._users = LRUCache[Hashable, _Bucket](_MOST_REMEMBERED)
        self._orgs = LRUCache[Hashable, _Bucket](_MOST_REMEMBERED)
        self._user_rate = user / _MINUTE
        self._org_rate = _part_of(capacity, _ORG_FACTORS[0]) / _MINUTE

    def level(self, holder: Holder) -> _Level:
        now = self._clock.monotonic()
        return _Level(*(bucket.at(now) for bucket in self._buckets(holder)))

    def add(self, holder: Holder, amount: int) -> None:
        now = self._clock.monotonic()
        for bucket in self._buckets(holder):
            bucket.add(amount, now)

    def _buckets(self, holder: Holder) -> "tuple[_Bucket, _Bucket, _Bucket]":
        return (
            self._total,
            self._users.setdefault(holder.user, _Bucket(self._user_rate)),
            self._orgs.setdefault(holder.org, _Bucket(self._org_rate)),
        )


@dataclass(slots=True)
class _Bucket:
    """A level that falls by `rate` a second."""

    rate: float
    level: float = 0
    since: float = 0

    def at(self, now: float) -> float:
        return max(0.0, self.level - self.rate * (now - self.since))

    def add(self, amount: int, now: float) -> None:
        self.level, self.since = self.at(now) + amount, now


class Hold:
    """A context in which something is held; a class, since each request has several, and a generator costs more."""

    __slots__ = ("_give_back", "_take")

    def __init__(self, take: Callable[[], None], give_back: Callable[[], None]) -> None:
        self._take = take
        self._give_back = give_back

    def __enter__(self) -> None:
        """Take it."""
        self._take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._give_back()


class Shares:
    """Counts what the users of this process hold and use, and refuses what would be more than their share.

    While others need little, one user may have seven eighths of a resource; while they hold more than half of it, no
    more than what is left free. So there is always something left for who holds nothing (dynamic thresholds, as in
    Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
    """

    def __init__(self, clock: Clock, capacities: Mapping[Resource, int] | None = None) -> None:
        usual = {resource: share.capacity for resource, share in SHARES.items() if share.capacity is not None}
        self._capacities = usual | dict(capacities or {})
        self._meters: dict[Resource, _Held | _Used] = {
            resource: _Held()
            if SHARES[resource].measure is Measure.HELD
            else _Used(clock, capacity, self.most_of_user(resource))
            for resource, capacity in self._capacities.items()
        }
        self._terms = {resource: self._terms_of(resource) for resource, share in SHARES.items() if share.is_leased}
        counted = (Resource.RUNNING_TURNS, Resource.RUNNING_BYTES)
        self._most_of_users = {resource: self.most_of_user(resource) for resource in counted}
        self._leases: Leases | None = None

    def most_of_users(self) -> Mapping[Resource, int]:
        """Return what one user may have of each resource of which the database counts the rows of all processes."""
        return self._most_of_users

    @contextmanager
    def leased(self, leases: Leases) -> Generator[None]:
        """While the context lasts, bound also what a user has on all replicas together."""
        self._leases = leases
        try:
            yield
        finally:
            self._leases = None

    def use(self, resource: Resource, holder: Holder) -> None:
        """Count one use of a resource that is counted by the minute.

        Raises:
            LimitExceededError: it is more than the holder's share; it carries the time to wait.
        """
        self._take(resource, holder, 1)

    def held(self, resource: Resource, holder: Holder, amount: int = 1) -> "Hold":
        """Hold some of a resource while the context lasts.

        Raises:
            LimitExceededError: on entering, it is more than the holder's share; it carries the time to wait.
        """
        return Hold(partial(self._take, resource, holder, amount), partial(self._add, resource, holder, -amount))

    def _take(self, resource: Resource, holder: Holder, amount: int) -> None:
        share, meter, capacity = SHARES[resource], self._meters[resource], self._capacities[resource]
        level = meter.level(holder)
        free = capacity - level.total - amount
        if free < 0:
            raise LimitExceededError(
                f"This server has as many {share.what} as it may ({capacity:,}); try again in a moment.",
                retry_after=_wait(share, -free, capacity),
                is_servers=True,
            )
        user = _least(_allowed(level.total - level.user, free, capacity, _USER_FACTORS), share.user)
        # Visitors without an account have nothing in common.
        org = _allowed(level.total - level.org, free, capacity, _ORG_FACTORS) if holder.org is not None else _NO_BOUND
        for who, had, most in (("Your", level.user, user), ("Your organisation's", level.org, org)):
            # Whoever has nothing gets something of what is free.
            if had and had + amount > most:
                raise LimitExceededError(
                    f"{who} share of this server's {share.what} is used up ({had:,.0f} of {capacity:,}); {share.mend}.",
                    retry_after=_wait(share, had + amount - most, min(capacity, share.user or capacity)),
                )
        if resource in self._terms and self._leases is not None:
            had = int(level.user)
            if not self._leases.allows(self._terms[resource], holder.user, had, amount):
                raise LimitExceededError(
                    f"Your share of {share.what} is used up, on all replicas of this server together; {share.mend}.",
                    retry_after=_wait(share, amount, self._terms[resource].most),
                )
        self._add(resource, holder, amount)

    def _add(self, resource: Resource, holder: Holder, amount: int) -> None:
        meter = self._meters[resource]
        if resource in self._terms and self._leases is not None:
            self._leases.count(self._terms[resource], holder.user, int(meter.level(holder).user), amount)
        meter.add(holder, amount)

    def _terms_of(self, resource: Resource) -> Terms:
        is_rate = SHARES[resource].measure is Measure.RATE
        return Terms(resource=resource, is_rate=is_rate, most=self.most_of_user(resource))

    def most_of_user(self, resource: Resource) -> int:
        """Return what an idle process would let one user have; on all replicas together it is the same."""
        most = _least(_part_of(self._capacities[resource], _USER_FACTORS[0]), SHARES[resource].user)
        return max(1, int(most))


def _allowed(others: float, free: float, capacity: int, factors: tuple[int, int]) -> float:
    idle, busy = factors
    return free * (idle if 2 * others <= capacity else busy)


def _least(most: float, ceiling: int | None) -> float:
    return most if ceiling is None else min(most, ceiling)


def _wait(share: Share, over: float, a_minute: int) -> timedelta:
    """Return how long to wait: until others are done, or until so much is forgotten of what was used."""
    wait = share.wait or timedelta(seconds=1)
    if share.measure is Measure.HELD:
        return wait
    return max(wait, timedelta(seconds=min(_MINUTE, over * _MINUTE / max(1, a_minute))))


def _part_of(capacity: int, factor: int) -> float:
    """Return how much somebody may have who is alone: so much that the factor times what is left free is the same."""
    return capacity * factor / (factor + 1)
