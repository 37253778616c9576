"""The command with which a client starts the program, where it is installed and where `uvx` runs it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.cli.start_commands import start_command

# Answers what the real one does: the directory of its scripts, and an installation there.
UV = """#!/bin/sh
case "$1 $2 $3" in
"tool dir --bin") echo "$SCRIPTS" ;;
"tool install "*) mkdir -p "$SCRIPTS" && cp "$0" "$SCRIPTS/agentapi-mcp" ;;
*) exit 2 ;;
esac
"""
REFUSING = UV.replace('mkdir -p "$SCRIPTS"', "exit 1")


def yes(_question: str) -> bool:
    return True


def no(_question: str) -> bool:
    return False


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def of_uvx(place: Path, uv: str = UV) -> tuple[dict[str, str], str]:
    """Return the variables and the prefix of a program that uvx runs, with this uv."""
    program(place / "bin" / "uv", uv)
    program(place / "bin" / "uvx", "#!/bin/sh\n")
    environ = {"PATH": f"{place / 'bin'}:{os.defpath}", "SCRIPTS": str(place / "scripts")}
    return environ, str(place / "cache" / "archive-v0" / "bOaIfjtEgdgneo6a")


def test_an_installed_program_is_started_by_its_script_and_nothing_is_asked() -> None:
    found = start_command({}, yes, prefix="/opt/venv")
    assert found.remark is None
    assert Path(found.words[0]).is_absolute()
    assert found.words == (str(Path(sys.executable).with_name("agentapi-mcp")),)


def test_what_uvx_runs_is_started_by_the_script_of_uv_tool_install(tmp_path: Path) -> None:
    environ, prefix = of_uvx(tmp_path)
    script = program(tmp_path / "scripts" / "agentapi-mcp", "#!/bin/sh\n")
    found = start_command(environ, None, prefix=prefix)
    assert found.words == (str(script),)
    assert "uv tool upgrade agentapi-mcp" in (found.remark or "")


def test_what_uvx_runs_is_installed_where_the_user_says_yes(tmp_path: Path) -> None:
    environ, prefix = of_uvx(tmp_path)
    found = start_command(environ, yes, prefix=prefix)
    assert found.words == (str(tmp_path / "scripts" / "agentapi-mcp"),)
    assert Path(found.words[0]).is_file()


@pytest.mark.parametrize("ask", [no, None])
def test_uvx_is_written_only_with_the_line_that_makes_it_fast(
    ask: Callable[[str], bool] | None, tmp_path: Path
) -> None:
    environ, prefix = of_uvx(tmp_path)
    found = start_command(environ, ask, prefix=prefix)
    assert (found.words[0], found.words[-1]) == (str(tmp_path / "bin" / "uvx"), "agentapi-mcp")
    assert "`uv tool install " in (found.remark or "")
    assert not (tmp_path / "scripts").exists()


def test_an_installation_that_fails_is_told(tmp_path: Path) -> None:
    environ, prefix = of_uvx(tmp_path, REFUSING)
    with pytest.raises(ConfigurationError, match=r"uv tool install .* failed"):
        start_command(environ, yes, prefix=prefix)
    (tmp_path / "bin" / "uv").unlink()
    with pytest.raises(ConfigurationError, match="cannot be run"):
        start_command(environ, yes, prefix=prefix)
