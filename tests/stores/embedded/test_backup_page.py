"""The page on backups, whose commands are run as they are written on a home that programs use."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.embedded import SOURCE, SharedHome

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: the page uses flock(1)"),
]

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "backup-and-uninstall.md"


def script(title: str) -> str:
    """Return the commands of one section."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"^ *```sh\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    return str(found)


def start(title: str, home: SharedHome) -> subprocess.Popen[str]:
    """Start one section's commands in the directory of the home."""
    program = home.path.parent / "commands" / "agentapi-mcp"
    program.parent.mkdir(exist_ok=True)
    words = f'PYTHONPATH={SOURCE} exec {sys.executable} -m agentapi_mcp "$@" >/dev/null'
    program.write_text(f"#!/bin/sh\n{words}\n", encoding="ascii")
    program.chmod(0o755)
    return subprocess.Popen(  # noqa: S603  # the page's own commands
        ["/bin/sh", "-eu", "-c", script(title)],
        cwd=home.path.parent,
        env={"PATH": f"{program.parent}:{os.defpath}", "AGENTAPI_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(title: str, home: SharedHome) -> None:
    """Run one section's commands to their end."""
    process = start(title, home)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "")


def use(home: SharedHome, *statements: str) -> list[object]:
    """Run statements in a program that ends after them."""
    user = home.user()
    answers = [user.ask("owner", statement) for statement in statements]
    user.leave()
    return answers


@pytest.fixture
def brief_home(home: SharedHome) -> SharedHome:
    """Return a home whose server stops at once after its last user."""
    if shutil.which("flock", path=os.defpath) is None:
        pytest.skip("needs flock(1), which the page uses")
    home.linger = 0.0
    return home


def test_a_backup_waits_for_its_users_and_is_private_and_comes_back_as_it_was(brief_home: SharedHome) -> None:
    # One home for all of it: the first start of a server is most of the time.
    user = brief_home.user()
    user.ask("owner", "CREATE TABLE kept (n int)")
    backup = start("Back up the embedded database", brief_home)
    user.ask("owner", "INSERT INTO kept VALUES (1)")
    assert backup.poll() is None
    user.leave()
    assert (backup.communicate(timeout=30)[0], backup.returncode) == ("", 0)
    assert (brief_home.path.parent / "agentapi-backup.tar.gz").stat().st_mode & 0o077 == 0
    use(brief_home, "INSERT INTO kept VALUES (2)")
    run("Restore the embedded database", brief_home)
    assert use(brief_home, "SELECT array_agg(n)::text FROM kept") == ["{1}"]


def test_uninstalling_leaves_no_home(brief_home: SharedHome) -> None:
    use(brief_home, "SELECT 1")
    run("Uninstall", brief_home)
    assert not brief_home.path.exists()
    brief_home.wait_until_gone()
