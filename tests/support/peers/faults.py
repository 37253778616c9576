"""How turns end for an MCP client: the entries of the peers' fault tables."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.testing.peers import FAULTS, BackendDeadlines, Behaviour

PATIENT = BackendDeadlines()
# A deadline is short only where the word is about it. The second of these leaves time for the piece that comes first.
SOON_SILENT = replace(PATIENT, idle=timedelta(seconds=0.3))
SILENT_AFTER_A_PIECE = replace(PATIENT, idle=timedelta(seconds=2))
SOON_OVER = replace(PATIENT, total=timedelta(seconds=0.5))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The end of one turn; `fault` None is an answer, and None elsewhere is not checked."""

    fault: BackendFault | None = None
    retryable: bool | None = None
    retry_after: float | None = None
    reply: str | None = ""
    billed: bool | None = False
    warning: str | None = None
    next_step: str | None = None
    deadlines: BackendDeadlines = PATIENT


ANSWERED = Expected()
# Over HTTP: whoever hangs up without a word may have expected another protocol.
HUNG_UP = Expected(fault=FAULTS[Behaviour.DROPPED], next_step="Try again; if it stays so")


def faults_of(words: Mapping[Behaviour, str], *, streams: bool) -> dict[str, Expected]:
    """Make the table of what the contract says already: the fault of each behaviour."""
    table = {words[behaviour]: Expected(fault=fault) for behaviour, fault in FAULTS.items() if behaviour in words}
    silent = Expected(fault=BackendFault.TIMEOUT_IDLE)
    late = Expected(fault=BackendFault.TIMEOUT_TOTAL, deadlines=SOON_OVER)
    by_time = {
        Behaviour.ENDS_EARLY: Expected(fault=FAULTS[Behaviour.ENDS_EARLY], reply=None, billed=None),
        Behaviour.SAYS_WHEN: Expected(fault=BackendFault.RATE_LIMIT, retry_after=2.5),
        Behaviour.HANGS: replace(silent, deadlines=SOON_SILENT) if streams else late,
        Behaviour.WAITS: replace(silent, deadlines=SILENT_AFTER_A_PIECE, reply="w0 ") if streams else late,
        Behaviour.DRIPS: late,
    }
    return table | {words[behaviour]: end for behaviour, end in by_time.items() if behaviour in words}


def amended(table: Mapping[str, Expected], **changes: Expected) -> dict[str, Expected]:
    """Return the table with other entries, of which each replaces one or is new."""
    return {**table, **changes}
