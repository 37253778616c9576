"""Commands of the program, without its start each time: that takes longer than most of them."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

import agentapi_mcp

_SERVER = Path(__file__).with_name("command_server.py")
_SOURCE = Path(agentapi_mcp.__file__).parents[1]
_MOST_INPUT = 60_000  # what a pipe holds while nobody reads

# Each command has files of its own as stdout and stderr, as if it had been started for itself.
_PROGRAM = """
import json, os, sys, tempfile
from agentapi_mcp.cli.main import main

results = os.dup(1)
for words in json.load(sys.stdin):
    files = [tempfile.TemporaryFile() for _ in range(2)]
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    status = 0
    try:
        main(words, prog_name="agentapi-mcp")
    except SystemExit as exc:
        status = exc.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read().decode())
    os.write(results, json.dumps([status, *texts]).encode() + b"\\n")
"""


class CommandRun(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@cache
def _command_server() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """Start the process that is forked for each command; it ends with this one."""
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(  # noqa: S603  # ours
            [sys.executable, _SERVER],
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
            env={"PATH": os.defpath, "PYTHONPATH": str(_SOURCE)},
        )
    return ours, process


async def run_command(environ: Mapping[str, str], *words: str, stdin: bytes = b"") -> CommandRun:
    """Run a command in a process of its own, which is a fork of one that has imported the program already."""
    assert len(stdin) < _MOST_INPUT
    command = {"words": words, "environ": dict(environ), "cwd": os.getcwd()}  # noqa: PTH109  # as a process inherits it
    read_end, write_end = os.pipe()
    ours, its = socket.socketpair()
    with ours, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with its, os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb") as writer:
            writer.write(stdin)
            descriptors = [each.fileno() for each in (its, reader, out, err)]
            socket.send_fds(_command_server()[0], [b"x"], descriptors)
        ours.setblocking(False)  # noqa: FBT003  # the name of the method says it
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(ours, json.dumps(command).encode() + b"\n")
        status = int(await loop.sock_recv(ours, 100))
        texts = list[str]()
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return CommandRun(status, *texts)


def run_commands(environ: Mapping[str, str], commands: Sequence[Sequence[str]], timeout: float) -> list[CommandRun]:
    """Run commands in this environment; blocks."""
    program = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(  # noqa: S603  # ours
        program,
        env=dict(environ),
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )
    runs = [CommandRun(*cast("tuple[int, str, str]", tuple(json.loads(line)))) for line in done.stdout.splitlines()]
    assert len(runs) == len(commands), done.stderr
    return runs
