"""A shell completes commands, agents, models and sessions, by the script that the program prints for it."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import agentapi_mcp
from tests.acceptance.test_processes import environ, run
from tests.support.databases import Seed
from tests.support.terminals import started_at_terminal

pytestmark = pytest.mark.acceptance
# What pressing Tab does: readline calls the function with these variables, and shows COMPREPLY.
_TAB = """
source "$SCRIPT"
complete -p agentapi-mcp
COMP_LINE=$*
COMP_POINT=${#COMP_LINE}
_agentapi_mcp_completion agentapi-mcp
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """Return a directory with the program as it is installed."""
    program = tmp_path / "agentapi-mcp"
    source = Path(agentapi_mcp.__file__).parents[1]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={source} exec {sys.executable} -m agentapi_mcp "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


async def tab(shell: Path, env: Mapping[str, str], *words: str) -> list[str]:
    """Press Tab in a real bash after these words, and return the choices; it may print nothing else."""
    path = {"PATH": f"{shell}{os.pathsep}{os.defpath}"}
    script = shell / "script.bash"
    if not script.exists():
        script.write_text((await run(env, "completion", "bash")).out, encoding="utf-8")
    bash = await asyncio.create_subprocess_exec(
        *(shutil.which("bash") or "bash", "--norc", "-c", _TAB, "bash", "agentapi-mcp", *words),
        env={**env, **path, "SCRIPT": str(script)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await bash.communicate()
    assert (bash.returncode, err) == (0, b"")
    registered, *choices = out.decode().splitlines()
    assert registered.endswith("-F _agentapi_mcp_completion agentapi-mcp")
    return [choice for choice in choices if choice]


async def test_bash_completes_commands_options_agents_models_and_sessions(seed: Seed, shell: Path) -> None:
    async with seed.started("tab-") as server:
        env = environ(server.home)
        turn = json.loads((await run(env, "chat", "--agent", "guide", "--json", "what is a turn?"))[1])
        assert await tab(shell, env, "ser") == ["serve"]
        assert await tab(shell, env, "sessions", "re") == ["rename"]
        assert "--idempotency-key" in await tab(shell, env, "chat", "--i")
        assert await tab(shell, env, "chat", "--agent", "g") == ["guide"]
        assert "gpt-5.4-mini" in await tab(shell, env, "chat", "--agent", "droid", "--model", "")
        assert await tab(shell, env, "chat", "--agent", "guide", "--model", "") == []
        assert await tab(shell, env, "sessions", "show", "") == [turn["session_id"][-8:]]
        assert await tab(shell, env, "chat", "--session", "") == [turn["session_id"][-8:]]
        assert await tab(shell, env, "completion", "") == ["bash", "fish", "zsh"]


MODELS = ("gemma3:4b", "gemma3:12b", "two words", "$(touch ran)", "semi;touch ran", "any/*", "it's")
# What is typed as a model before Tab, what after it, and what the program is told.
TYPED = (
    ("gemma3:", "4b", "gemma3:4b"),
    ("gemma3:1", "", "gemma3:12b"),
    ("gem", "12b", "gemma3:12b"),
    ("tw", "", "two words"),
    (r"two\ w", "", "two words"),
    ("'two", "", "two words"),
    (r"\$", "", "$(touch ran)"),
    ("se", "", "semi;touch ran"),
    ('"se', '"', "se"),
    ("an", "", "any/*"),
    ("it", "", "it's"),
)


def test_bash_inserts_one_word_whatever_a_name_has_in_it(tmp_path: Path, shell: Path) -> None:
    text = '[agents.own]\nbackend = "openai"\n[agents.own.options]\nbase_url = "http://127.0.0.1:9/v1"\n'
    for name in MODELS:
        text += f'[[agents.own.models]]\nname = "{name}"\nmodel_id = "x"\nprovider = "own"\n'
    config, inputrc = tmp_path / "agents.toml", tmp_path / "inputrc"
    config.write_text(text, encoding="utf-8")
    inputrc.write_text("set enable-bracketed-paste off\n", encoding="utf-8")
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "file").touch()
    env = environ(tmp_path / "home") | {
        "AGENTAPI_CONFIG": str(config),
        "INPUTRC": str(inputrc),
        "PATH": f"{shell}{os.pathsep}{os.defpath}",
        "TERM": "dumb",
    }
    with started_at_terminal(env, "bash", "--norc", "-i", columns=200) as person:
        person.type(f'cd {tmp_path}; eval "$(agentapi-mcp completion bash)"\r')
        person.type("agentapi-mcp() { printf '<%s>' \"$@\"; echo; }; echo set'' up\r")
        at = person.until("set up\r\n")
        for before, after, told in TYPED:
            person.type(f"agentapi-mcp chat --agent own --model {before}\t{after}\r")
            at = person.until(f"<chat><--agent><own><--model><{told}>\r\n", after=at)
        person.type("agentapi-mcp chat --agent=ow\t--model=gemma3:1\t\r")
        person.until("<chat><--agent=own><--model=gemma3:12b>\r\n", after=at)
    assert not (tmp_path / "ran").exists()


async def test_nothing_is_started_made_or_printed_where_there_is_nothing(tmp_path: Path, shell: Path) -> None:
    env = environ(tmp_path / "home")
    assert await tab(shell, env, "sessions", "show", "") == []
    assert not (tmp_path / "home").exists()
    broken = tmp_path / "agents.toml"
    broken.write_text("[agents", encoding="utf-8")
    assert await tab(shell, env | {"AGENTAPI_CONFIG": str(broken)}, "chat", "--agent", "") == []
    nowhere = {"AGENTAPI_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere"}
    assert await tab(shell, env | nowhere, "sessions", "show", "") == []


@pytest.mark.parametrize("name", ["bash", "fish", "zsh"])
async def test_there_is_a_script_for_each_shell(edge_home: Path, tmp_path: Path, name: str) -> None:
    status, out, err = await run(environ(edge_home), "completion", name)
    assert (status, err) == (0, "")
    assert f"_AGENTAPI_MCP_COMPLETE={name}_complete" in out
    if shutil.which(name) is not None:
        script = tmp_path / "script"
        script.write_text(out, encoding="utf-8")
        checked = await asyncio.create_subprocess_exec(name, "-n", str(script), stderr=subprocess.PIPE)
        assert await checked.communicate() == (None, b"")


@pytest.mark.parametrize("asked", ["", "nosuch_complete", "bash_source", "bash_complete"])
async def test_a_question_that_is_none_is_answered_by_nothing(edge_home: Path, asked: str) -> None:
    assert await run(environ(edge_home) | {"_AGENTAPI_MCP_COMPLETE": asked}) == (0, "", "")
