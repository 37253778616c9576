"""Jobs, and what the database knows of their runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Periodic work, which may be repeated at any time; `run` returns how many rows or tables it changed."""

    name: str
    summary: str
    interval: timedelta
    run: Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaim:
    """The right of one process to run a job until its lease ends; `started_at` is the database's time."""

    name: str
    owner: UUID
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """The last runs of a job; `idle_for` is the time since the last run ended, or since the first one was claimed."""

    idle_for: timedelta
    last_error: str | None = None
    consecutive_failures: int = 0
