"""Models of the doctor: results of checks, and facts about the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

TYPE_CHECKING = False  # type checkers take it for true; who shows the results needs none of these
if TYPE_CHECKING:
    from agentapi_mcp.core.access.models import Issuer
    from agentapi_mcp.core.catalogue.models import AgentDeclaration


class CheckOutcome(StrEnum):
    """Outcome of a check; only FAULT makes the doctor fail."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    NOT_IN_USE = "not_in_use"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of the check of one part; `advice` has shell commands that fix it, to copy or fill in."""

    name: str
    outcome: CheckOutcome
    detail: str
    advice: tuple[str, ...] = ()
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """Agents declared in the configuration files, by name; `packaged` are those of the program's own file."""

    own_files: tuple[str, ...]
    agents: Mapping[str, AgentDeclaration]
    packaged: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """Facts about a database; `remark` lists privileges of the login beyond those that the program needs.

    `left_to_others` are the names of views and functions that were not made, since other programs have them.
    """

    version: str
    is_standby: bool
    is_encrypted: bool
    latency: timedelta
    remark: str | None
    left_to_others: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PendingDatabase:
    """An embedded database that the next start makes or brings to this version; `detail` says which."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInSetup:
    """The sign-in over HTTP as it is configured.

    `broken` says why `serve` would not start whatever its options are, `refusal` why nobody could sign in, and
    `needs_token` why it would not start without an option that says who guards it.
    """

    issuers: tuple[Issuer, ...] = ()
    resource_url: str | None = None
    broken: str | None = None
    refusal: str | None = None
    needs_token: str | None = None


def ok(name: str, detail: str) -> Check:
    """Report a part that works."""
    return Check(name=name, outcome=CheckOutcome.OK, detail=detail)


def warning(name: str, detail: str, *advice: str) -> Check:
    """Report a part that works, but should be improved."""
    return Check(name=name, outcome=CheckOutcome.WARNING, detail=detail, advice=advice)


def fault(name: str, detail: str, *advice: str) -> Check:
    """Report a part that does not work."""
    return Check(name=name, outcome=CheckOutcome.FAULT, detail=detail, advice=tuple(dict.fromkeys(advice)))


def not_in_use(name: str, detail: str, *advice: str) -> Check:
    """Report a part that is not set up."""
    return Check(name=name, outcome=CheckOutcome.NOT_IN_USE, detail=detail, advice=advice)


def not_checked(name: str, detail: str) -> Check:
    """Report a part that cannot be checked before another one works."""
    return Check(name=name, outcome=CheckOutcome.NOT_CHECKED, detail=detail)
