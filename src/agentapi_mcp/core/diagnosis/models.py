"""What the doctor finds, and what it is told of the parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from agentapi_mcp.core.catalogue.models import AgentDeclaration


class Outcome(StrEnum):
    """How a check ended: a warning and what is not in use make no fault."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    NOT_IN_USE = "not_in_use"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found of one part; `advice` are lines for a shell that mend it, to be copied or filled in."""

    name: str
    outcome: Outcome
    detail: str
    advice: tuple[str, ...] = ()
    duration: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declarations:
    """The agents that the configuration files declare by name; `packaged` names those that come with the program."""

    own_files: tuple[str, ...]
    agents: Mapping[str, AgentDeclaration]
    packaged: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What a database tells of itself; `remark` is what its login may do beyond what the program needs."""

    version: str
    is_standby: bool
    is_encrypted: bool
    latency: timedelta
    remark: str | None


def ok(name: str, detail: str) -> Check:
    """Report a part that works."""
    return Check(name=name, outcome=Outcome.OK, detail=detail)


def warning(name: str, detail: str, *advice: str) -> Check:
    """Report a part that works, and could be better."""
    return Check(name=name, outcome=Outcome.WARNING, detail=detail, advice=advice)


def fault(name: str, detail: str, *advice: str) -> Check:
    """Report a part that does not work."""
    return Check(name=name, outcome=Outcome.FAULT, detail=detail, advice=tuple(dict.fromkeys(advice)))


def not_in_use(name: str, detail: str, *advice: str) -> Check:
    """Report a part that nobody has set up."""
    return Check(name=name, outcome=Outcome.NOT_IN_USE, detail=detail, advice=advice)


def not_checked(name: str, detail: str) -> Check:
    """Report a part that cannot be asked before another one works."""
    return Check(name=name, outcome=Outcome.NOT_CHECKED, detail=detail)
