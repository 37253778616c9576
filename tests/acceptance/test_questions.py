"""Ctrl-C at a question ends the command, with nothing done and the exit status of an interruption."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.acceptance.test_processes import environ, run
from tests.support.terminals import terminal

pytestmark = pytest.mark.acceptance


def interrupted_at(env: dict[str, str], question: str, words: Sequence[str]) -> tuple[int, str]:
    """Press Ctrl-C at a question, and read to the end."""
    with terminal(env, *words) as person:
        person.until(question)
        person.interrupt()
        return person.leave(), person.seen


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (("agents", "add", "mistral"), "API key of Mistral: "),
        (("agents", "remove", "house"), "agents.toml? [Y/n]: "),
        (("connect",), "Connect cursor? [Y/n]: "),
        (("keys", "add", "openrouter"), "API key: "),
    ],
)
async def test_ctrl_c_at_a_question_changes_nothing(words: Sequence[str], question: str, tmp_path: Path) -> None:
    files = {tmp_path / "agents.toml": '[agents.house]\nbackend = "guide"\n', tmp_path / ".cursor" / "mcp.json": "{}"}
    for file, text in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    env = environ(tmp_path / "home") | {"AGENTAPI_CONFIG": str(tmp_path / "agents.toml"), "HOME": str(tmp_path)}
    status, seen = await asyncio.to_thread(interrupted_at, env, question, words)
    assert (status, "Traceback" in seen) == (130, False), seen
    assert {file: file.read_text(encoding="utf-8") for file in files} == files


async def test_ctrl_c_instead_of_a_yes_deletes_no_session(edge_home: Path) -> None:
    env = environ(edge_home)
    status, out, err = await run(env, "chat", "--agent", "guide", "--json", "which agents work?")
    assert status == 0, err
    session = json.loads(out)["session_id"]
    words = ("sessions", "delete", session)
    status, seen = await asyncio.to_thread(interrupted_at, env, "messages? [y/N]: ", words)
    assert (status, "Traceback" in seen) == (130, False), seen
    assert (await run(env, "sessions", "show", session))[0] == 0
