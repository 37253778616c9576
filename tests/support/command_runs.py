"""Many commands one after the other in one process of the program: starting it takes longer than most of them."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

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
