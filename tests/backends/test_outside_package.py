"""A package that brings a backend: docs/backends/write-a-backend.md is one, and its suite is run as it is written."""

import asyncio
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import agentapi_mcp

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends" / "write-a-backend.md"
SOURCE = Path(agentapi_mcp.__file__).parents[1]
FILE = re.compile(r"^```python\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROJECT = re.compile(r"^```toml\n(\[project\]\n.*?)^```", re.MULTILINE | re.DOTALL)

SLOW = ("given_up", "cancelling")
BREACHES = {
    "if said is None:": "if False:",
    "TextDelta(said)": 'TextDelta(said or "nothing")',
    "Redactor(secrets_of(options))": "Redactor()",
    "spoken_of(turn)": "spoken_of(turn)[-1:]",
    "frozenset[Capability]()": "frozenset(Capability)",
}
FOUND_BY = (
    "test_a_failure_is_told_as_its_fault",
    "test_no_secret_and_no_prompt_is_seen",
    "test_a_key_that_the_agent_repeats_in_its_answer_is_hidden",
    "test_history_is_known_to_an_agent_that_has_no_state",
    "test_a_state_is_resumed_by_the_next_process",
    "test_a_state_that_is_unknown_is_no_failure",
    "test_a_check_tells_how_the_agent_is_and_asks_no_turn",
    "test_a_check_of_an_agent_that_is_not_there_is_unhealthy",
    "test_a_callers_key_is_used_for_their_turn_alone",
    "test_who_stops_billing_can_be_stopped_or_costs_nothing",
)


def install(place: Path) -> None:
    """Write the files of the page, build its package, and lay that out as an installer does."""
    text = PAGE.read_text(encoding="utf-8")
    for name, content in FILE.findall(text):
        (place / name).write_text(content, encoding="utf-8")
    (written,) = PROJECT.findall(text)
    (place / "pyproject.toml").write_text(written, encoding="utf-8")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(build, cwd=place, check=True, capture_output=True)  # noqa: S603  # ours
    (wheel,) = (place / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if "/" not in name] == ["echo_backend.py"]
        archive.extractall(place)


async def run_suite(place: Path, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "test_echo.py"),
        cwd=place,
        env={"PYTHONPATH": f"{place}:{SOURCE}", "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.timeout(120)  # it starts a pytest of its own
async def test_the_backend_of_the_page_keeps_the_contract(tmp_path: Path) -> None:
    install(tmp_path)
    code, said = await run_suite(tmp_path, "-rs")
    assert code == 0, said
    passed, skipped = (int(re.findall(rf"(\d+) {word}", said)[-1]) for word in ("passed", "skipped"))
    assert passed > 30
    assert len(re.findall("SKIPPED.*: (?:the answer comes whole|an echo does not judge)", said)) >= 2
    assert skipped < 25


@pytest.mark.timeout(120)  # it starts a pytest of its own
async def test_a_backend_that_breaks_its_contract_is_found_out(tmp_path: Path) -> None:
    install(tmp_path)
    file = tmp_path / "echo_backend.py"
    text = file.read_text(encoding="utf-8")
    for right, wrong in BREACHES.items():
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    file.write_text(text, encoding="utf-8")
    code, said = await run_suite(tmp_path, "-rf", "-k", f"not {' and not '.join(SLOW)}")
    assert code == 1, said
    assert {name for name in FOUND_BY if not re.search(rf"^FAILED .*::{name}\b", said, re.MULTILINE)} == set()
    assert re.search(r"\d+ passed", said)


async def test_a_suite_without_a_case_is_refused(tmp_path: Path) -> None:
    install(tmp_path)
    file = tmp_path / "test_echo.py"
    file.write_text(file.read_text(encoding="utf-8").replace("(EchoCase(),)", "()"), encoding="utf-8")
    code, said = await run_suite(tmp_path)
    assert code not in {0, 5}
    assert "TestEcho tests nothing: set cases" in said
