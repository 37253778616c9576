"""All scenarios of the public suite, in both its versions, for every protocol revision, over one to three replicas."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typing_extensions import override

from agentapi_mcp.web.application import WebOptions
from tests.conformance.fixtures import register
from tests.conformance.jobs import Jobs
from tests.support.connect import open_edge
from tests.support.edges import mcp_application
from tests.support.npm_peers import installed, node_bin, node_environment
from tests.support.replicas import serve_replicas

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore:The logging capability is deprecated"),  # the suite asks for it
]
_OLDEST_NODE = 22
_PASSED = re.compile(r"^✓ (\S+): (\d+) passed, 0 failed$", re.MULTILINE)
# Scenarios without any check, and why: that they pass says nothing.
UNCHECKED = {
    "server-sse-polling": "it looks at streams that can be resumed; its call is answered by JSON here",
    "tasks-status-notifications": "the suite skips it, until it listens where notifications are sent",
}
TASKS = {
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
}


@dataclass(frozen=True)
class Run:
    """How the suite is run, and how many scenarios there are then."""

    version: str
    words: tuple[str, ...]
    scenarios: int

    @override
    def __str__(self) -> str:
        """Name it among the tests."""
        return " ".join((self.version, *self.words[-1:]))


def _of_revision(revision: str, scenarios: int) -> Run:
    return Run("0.2", ("--suite", "all", "--spec-version", revision), scenarios)


RUNS = (
    Run("0.1", ("--suite", "all"), 32),
    _of_revision("2025-03-26", 1),
    _of_revision("2025-06-18", 27),
    _of_revision("2025-11-25", 33),
    _of_revision("2026-07-28", 40),
)


@asynccontextmanager
async def serving(home: Path, replicas: int) -> AsyncGenerator[str]:
    """Serve so many whole programs on one database, each with what the suite looks for."""
    async with AsyncExitStack() as stack:
        jobs = Jobs()
        edges = [await stack.enter_async_context(open_edge(home, jobs.peer())) for _ in range(replicas)]
        apps = [mcp_application(register(edge.server, jobs), WebOptions()) for edge in edges]
        yield await stack.enter_async_context(serve_replicas(apps))


async def report(version: str, url: str, words: Sequence[str]) -> tuple[int, str]:
    """Run the suite, and return its status and what it says."""
    program = await asyncio.to_thread(installed, "npm_conformance") / f"conformance-{version}" / "dist" / "index.js"
    process = await asyncio.create_subprocess_exec(
        str(node_bin(_OLDEST_NODE) / "node"),
        str(program),
        "server",
        "--url",
        url,
        *words,
        env=node_environment(_OLDEST_NODE),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("run", RUNS, ids=str)
async def test_every_scenario_passes(run: Run, replicas: int, edge_home: Path) -> None:
    async with serving(edge_home, replicas) as url:
        status, said = await report(run.version, url, run.words)
    assert status == 0, said
    passed = checks_of(said)
    assert len(passed) == run.scenarios, said
    assert unchecked(passed) <= set(UNCHECKED), said


@pytest.mark.parametrize(
    ("words", "scenarios"), [(("--requirements", "2026-07-28"), 50), (("--suite", "all"), 65)], ids=["required", "all"]
)
async def test_every_scenario_of_the_extension_passes_too_through_three_replicas(
    words: tuple[str, ...], scenarios: int, edge_home: Path
) -> None:
    async with serving(edge_home, 3) as url:
        status, said = await report("0.2", url, words)
    assert status == 0, said
    passed = checks_of(said)
    assert len(passed) == scenarios, said
    assert unchecked(passed) == set(UNCHECKED) & set(passed), said
    assert set(passed) > TASKS


def checks_of(said: str) -> dict[str, int]:
    """Read how many checks each scenario has passed that failed none."""
    return {name: int(checks) for name, checks in _PASSED.findall(said)}


def unchecked(passed: dict[str, int]) -> set[str]:
    """Return the scenarios that checked nothing."""
    return {name for name, checks in passed.items() if checks == 0}
