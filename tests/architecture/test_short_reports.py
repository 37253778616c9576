"""What pytest prints of a failure within task groups is the failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = """
import asyncio
from contextlib import asynccontextmanager

import pytest


@asynccontextmanager
async def opened():
    async with asyncio.TaskGroup():
        yield


async def fails_in(body):
    async with opened(), opened(), opened():
        await body()


async def one():
    numbers = [1, 2]
    assert numbers == [1, 3]


async def given_up():
    pytest.fail("gave up")


async def two():
    async with asyncio.TaskGroup() as group:
        group.create_task(one())
        group.create_task(given_value())


async def given_value():
    raise ValueError("the second")


@pytest.mark.parametrize("body", [one, given_up, two], ids=lambda body: body.__name__)
def test_sample(body):
    asyncio.run(fails_in(body))
"""


def report_of(case: str, folder: Path, *plugins: str) -> list[str]:
    """Run a case of the sample in a pytest of its own, and return the lines that it prints of its failure."""
    file = folder / "test_sample.py"
    file.write_text(SAMPLE, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", str(folder / "pytest.ini"), *plugins]
    words = [sys.executable, "-m", "pytest", *options, f"{file}::test_sample[{case}]"]
    # Nothing of this process's environment: where CI is set, pytest writes whole diffs, and lines would not compare.
    env = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if " FAILURES " in line)
    return lines[begin:]


PLUGIN = ("-p", "tests.support.short_reports")


def test_the_failure_within_groups_is_shown_alone_and_with_its_values(tmp_path: Path) -> None:
    report = report_of("one", tmp_path, *PLUGIN)
    assert "E       assert [1, 2] == [1, 3]" in report
    assert "ExceptionGroup" not in "\n".join(report)
    assert len(report) < len(report_of("one", tmp_path)) / 2


def test_a_failure_that_the_test_declares_is_shown_alone(tmp_path: Path) -> None:
    report = report_of("given_up", tmp_path, *PLUGIN)
    assert "E       Failed: gave up" in report
    assert "ExceptionGroup" not in "\n".join(report)


def test_several_failures_in_a_group_are_all_shown(tmp_path: Path) -> None:
    report = "\n".join(report_of("two", tmp_path, *PLUGIN))
    assert "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)" in report
    assert "assert [1, 2] == [1, 3]" in report
    assert "ValueError: the second" in report


def test_the_tests_of_this_project_load_the_plugin(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.has_plugin(PLUGIN[1])
