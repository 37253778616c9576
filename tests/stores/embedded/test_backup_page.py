"""The page on backups, whose commands are run as they are written on a home that programs have used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.embedded import SOURCE, SharedHome

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux: it looks for processes of a home"),
]

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "backup-and-uninstall.md"


def script(title: str) -> str:
    """Return the commands of one section."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    (found,) = re.findall(r"^ *```sh\n(.*?)^ *```", section, re.MULTILINE | re.DOTALL)
    return str(found)


def confirmed(title: str) -> str:
    """Return the command of a section with the word of somebody who agrees: nobody can be asked here."""
    return f"{script(title).rstrip()} --yes"


def run(commands: str, home: SharedHome) -> str:
    """Run commands in the directory of the home, and return what they print."""
    program = home.path.parent / "commands" / "agentapi-mcp"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} -m agentapi_mcp "$@"\n', encoding="ascii")
    program.chmod(0o755)
    done = subprocess.run(  # noqa: S603  # the page's own commands
        ["/bin/sh", "-eu", "-c", commands],
        cwd=home.path.parent,
        env={
            "PATH": f"{program.parent}:{os.defpath}",
            "AGENTAPI_HOME": str(home.path),
            "HOME": str(home.path.parent),
            "AGENTAPI_POSTGRES_LINGER_SECONDS": "5",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_person_who_follows_the_page_gets_back_what_there_was_and_leaves_nothing(home: SharedHome) -> None:
    # One home for all of it: the first start of a server is most of the time.
    run('agentapi-mcp chat --agent guide "How do I make a backup?"', home)
    before = run("agentapi-mcp sessions list", home)
    assert "How do I make a backup?" in before
    assert "1 session" in run(script("Back up"), home)
    assert "Removed: 1 session" in run(confirmed("Begin anew"), home)
    assert run("agentapi-mcp sessions list", home) == ""
    assert "1 session" in run(script("Restore"), home)
    assert run("agentapi-mcp sessions list", home) == before
    run(confirmed("Uninstall"), home)
    assert not home.path.exists()
    home.wait_until_gone()
