"""`agentapi-mcp doctor`: check the installation, with the command that fixes each fault."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib import import_module

import click

from agentapi_mcp import __version__
from agentapi_mcp.base.durations import to_milliseconds
from agentapi_mcp.base.lazy import LazyModule
from agentapi_mcp.base.text import number_of
from agentapi_mcp.cli.options import json_option
from agentapi_mcp.cli.outputs import FAILED, guarded, print_json
from agentapi_mcp.cli.terminal import print_labelled, print_out
from agentapi_mcp.core.diagnosis.models import Check, CheckOutcome
from agentapi_mcp.environ import environment
from agentapi_mcp.telemetry import configure_logs

TYPE_CHECKING = False  # type checkers take it for true; the help of the command needs none of these
if TYPE_CHECKING:
    import asyncio

    from agentapi_mcp.core.diagnosis.doctor import Doctor
    from agentapi_mcp.resident import diagnosis
else:
    diagnosis = LazyModule("agentapi_mcp.resident.diagnosis")
    asyncio = LazyModule("asyncio")

_LABELS = {
    CheckOutcome.OK: ("ok", "green"),
    CheckOutcome.WARNING: ("warning", "yellow"),
    CheckOutcome.FAULT: ("fault", "red"),
    CheckOutcome.NOT_IN_USE: ("not in use", "bright_black"),
    CheckOutcome.NOT_CHECKED: ("not checked", "bright_black"),
}
_OUTCOME_WIDTH = max(len(word) for word, _ in _LABELS.values())
_NAME_WIDTH = 14


@click.command()
@click.option("--ask", is_flag=True, help="Ask every agent one short question too; that costs what an answer costs.")
@click.option("--require-token", "needs_token", is_flag=True, help="`serve` is started with this option.")
@click.option("--insecure", is_flag=True, help="`serve` is started with this option.")
@json_option
def doctor(*, ask: bool, needs_token: bool, insecure: bool, as_json: bool) -> None:
    """Check every part, and print for each fault the line that mends it."""
    guarded(partial(_run_checks, ask=ask, is_guarded=needs_token or insecure, as_json=as_json))


async def _run_checks(*, ask: bool, is_guarded: bool, as_json: bool) -> None:
    """Run all checks and print their results; exit with 1 if any finds a fault."""
    configure_logs("error")  # the checks report failures; a log line would repeat them
    found: list[Check] = []

    def report(check: Check) -> None:
        found.append(check)
        if not as_json:
            _print(check)

    app = import_module("agentapi_mcp.app.doctor")  # slow to import, and its help needs it not
    doctor: Doctor = app.create_doctor(environment(), is_guarded=is_guarded)
    await doctor.examine(report, ask=ask)
    report(await asyncio.to_thread(diagnosis.check_servers, environment()))
    faults = sum(check.outcome is CheckOutcome.FAULT for check in found)
    if as_json:
        print_json({"version": __version__, "ok": not faults, "checks": [_json(check) for check in found]})
    else:
        print_out(_summary(found))
    if faults:
        sys.exit(FAILED)


def _summary(found: Sequence[Check]) -> str:
    counts = Counter(check.outcome for check in found)
    faults, warnings = counts[CheckOutcome.FAULT], counts[CheckOutcome.WARNING]
    if faults:
        return f"{number_of(faults, 'fault')}; see `mend` above."
    if warnings:
        return f"Everything works, with {number_of(warnings, 'warning')}."
    return "Everything works."


def _print(check: Check) -> None:
    word, colour = _LABELS[check.outcome]
    print_labelled(word.ljust(_OUTCOME_WIDTH), colour, f"  {check.name.ljust(_NAME_WIDTH)}  {check.detail}")
    label = "to use it:" if check.outcome is CheckOutcome.NOT_IN_USE else "mend:"
    for line in check.advice:
        print_out(f"{' ' * (_OUTCOME_WIDTH + 2)}{label} {line}")


def _json(check: Check) -> dict[str, object]:
    return {
        "name": check.name,
        "outcome": check.outcome,
        "detail": check.detail,
        "mend": list(check.advice),
        "duration_ms": to_milliseconds(check.duration),
    }
