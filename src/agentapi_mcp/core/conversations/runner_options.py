"""Timing and limits of the engine of turns."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRunnerOptions:
    """Timing and limits of the engine; docs/design/turns.md explains the defaults."""

    lease: timedelta = timedelta(seconds=15)
    renew_every: timedelta = timedelta(seconds=4)
    renew_within: timedelta = timedelta(seconds=4)
    renew_again: timedelta = timedelta(seconds=0.5)
    save_again: timedelta = timedelta(seconds=0.5)
    save_every: timedelta = timedelta(seconds=2)
    check_members_every: timedelta = timedelta(seconds=5)
    check_members_within: timedelta = timedelta(seconds=5)
    abandon_grace: timedelta = timedelta(seconds=15)
    stopped_grace: timedelta = timedelta(seconds=1.5)
    shutdown_grace: timedelta = timedelta(seconds=1.5)
    settle_within: timedelta = timedelta(seconds=5)
    refuse_when_behind: timedelta = timedelta(seconds=5)
    places: int = 12
    places_to_finish: int = 4
    places_of_a_user: int = 6
    reserve_usd: Decimal = Decimal("0.10")
