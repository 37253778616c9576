"""The commands of the pages, run as they stand there, and what they are said to print."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import Implementation

import agentapi_mcp
from tests.acceptance.test_processes import environ, run
from tests.support.connect import call
from tests.support.databases import Seed
from tests.support.peers.openai import OpenAIPeer
from tests.support.samples import NOT_RUN, ROOT, Sample, read_samples

pytestmark = pytest.mark.acceptance
SAMPLES = read_samples()
RUN = [sample for sample in SAMPLES if sample.reason is None]
_SOURCE = str(Path(agentapi_mcp.__file__).parents[1])
_OURS = re.compile(r"agentapi-mcp [^|>$;]*")
# What a person answers where a command asks.
ANSWERS = {"keys add": "sk-or-v1-0123456789abcdef\n"}
AGREED = ("sessions delete", "connect")
MOST = 12  # commands of a test, if a block has no more
Ended = tuple[int, str]


def test_every_command_is_run_or_it_is_said_why_not() -> None:
    shown = [f"{sample.page}: {sample.command}" for sample in SAMPLES]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, each) for each in shown)] == []
    named = [reason for reason in NOT_RUN.values() if reason.startswith("tests/")]
    assert [each for each in named if not (ROOT / each).is_file()] == []
    assert len(RUN) > 80


def parts() -> list[list[Sample]]:
    """Divide the commands of each page into parts that take no long time, between its blocks."""
    found: list[list[Sample]] = []
    for sample in RUN:
        last = found[-1] if found else []
        same_page, same_block = (
            any(getattr(each, of) == getattr(sample, of) for each in last) for of in ("page", "block")
        )
        if same_page and (same_block or len(last) < MOST):
            last.append(sample)
        else:
            found.append([sample])
    return found


@pytest.mark.parametrize("samples", parts(), ids=lambda samples: f"{samples[0].page}-{samples[0].block}")
async def test_the_commands_of_a_page_do_what_it_says(samples: list[Sample], seed: Seed, tmp_path: Path) -> None:
    page = samples[0].page
    async with seed.started("pages-") as server, OpenAIPeer() as peer:
        env = environ(server.home, peer) | person(tmp_path)
        _, key, _ = await run(env, "secrets", "generate")
        env["AGENTAPI_MASTER_KEY"] = key.strip()
        names = await begun(env)
        declare(page, server.home, peer)
        shell = Shell(env, names, tmp_path)
        faults = [fault for sample in samples if (fault := fault_of(sample, await shell.type(sample.command), env))]
    assert faults == []


def person(place: Path) -> dict[str, str]:
    """Give somebody a home with clients in it."""
    home = place / "me"
    for each in (".config/Code/User", ".cursor", ".codex"):
        (home / each).mkdir(parents=True)
    (home / ".cursor" / "mcp.json").write_text("{}\n", encoding="utf-8")
    return {"HOME": str(home)}


async def begun(env: Mapping[str, str]) -> dict[str, str]:
    """Hold a conversation, be seen in a client, make an organisation; return what the pages' placeholders stand for."""
    turns: list[dict[str, str]] = []
    for message in ("one that is deleted", "one that stays"):
        status, out, err = await run(env, "chat", "--agent", "droid", "--json", message)
        assert status == 0, err
        turns.append(json.loads(out))
    server = StdioServerParameters(command=sys.executable, args=["-m", "agentapi_mcp"], env=dict(env))
    async with Client(server, client_info=Implementation(name="claude-code", version="2")) as client:
        await call(client, "list_agents")
    organization = (await run(env, "organization", "create", "Acme"))[1]
    user = json.loads((await run(env, "members", "list", "--json"))[1])["members"][0]["user_id"]
    return {
        "SESSION_ID": turns[0]["session_id"],
        "TURN_ID": turns[1]["turn_id"],
        "FILE": "all.backup",
        "01a20bcb-b793-74bb-9c4e-9abce3d206b3": re.findall(
            r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", organization
        )[0],
        "6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01": user,
    }


def declare(page: str, home: Path, peer: OpenAIPeer) -> None:
    """Write the configuration file that a page shows before its commands."""
    if page != "how-to/add-a-local-model.md":
        return
    block = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]
    file = block.replace("http://127.0.0.1:11434", peer.origin)
    (home / "agentapi.toml").write_text(file, encoding="utf-8")


class Shell:
    """A shell of a person who follows a page; what is more than a command of ours is done by a real one."""

    def __init__(self, env: Mapping[str, str], names: Mapping[str, str], place: Path) -> None:
        self._env = dict(env)
        self._names = names
        self._place = place
        program = place / "agentapi-mcp"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m agentapi_mcp "$@"\n', encoding="utf-8")
        program.chmod(stat.S_IRWXU)

    async def type(self, command: str) -> Ended:
        """Do one command, or the lines of a script; return the exit status, and all that was printed."""
        for name, meant in self._names.items():
            command = re.sub(rf"\b{name}\b", meant, command)
        lines = [re.sub(r" +# .*$", "", line) for line in command.splitlines()]
        ended = [await (self._run(line) if _OURS.fullmatch(line) else self._pass_on(line)) for line in lines]
        return max(status for status, _ in ended), "".join(printed for _, printed in ended)

    async def _run(self, line: str) -> Ended:
        _, *words = shlex.split(line)
        asked = " ".join(words[:2])
        words += ["--yes"] if asked in AGREED else []
        with contextlib.chdir(self._place):
            status, out, err = await run(self._env, *words, stdin=ANSWERS.get(asked, ""))
        return status, out + err

    async def _pass_on(self, line: str) -> Ended:
        path = f"{self._place}:{os.defpath}"
        shell = await asyncio.create_subprocess_exec(
            "sh", "-c", f"{line}\nstatus=$?; env -0 >.env; exit $status",
            env={"PYTHONPATH": _SOURCE, **self._env, "PATH": path}, cwd=self._place,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await shell.communicate()
        kept = (self._place / ".env").read_text(encoding="utf-8")
        self._env = dict(each.split("=", 1) for each in kept.split("\0") if each)
        return shell.returncode or 0, out.decode()


def fault_of(sample: Sample, ended: Ended, env: Mapping[str, str]) -> str | None:
    """Say what is wrong with a command of a page; None if it is right."""
    status, printed = ended
    if status != 0:
        return f"{sample.page}: {sample.command} ended with {status}: {printed}"
    lines = iter(printed.splitlines())  # remarks about the surroundings of a test may stand between
    for shown in sample.shown:
        pattern = re.sub(r"\d+\\\.\d\\ s\b", r"\\d+\\.\\d s", re.escape(shown.replace("/home/me", env["HOME"])))
        if not any(re.fullmatch(pattern, line) for line in lines):
            return f"{sample.page}: {sample.command} did not print {shown!r}, but {printed}"
    return None
