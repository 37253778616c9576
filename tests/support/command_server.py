"""A process that has imported the program, and forks a process of its own for each command: importing is most of one.

On standard input it is sent four descriptors for each command: a socket, and its standard streams. From the socket it
reads what to run, and writes the exit status to it. A command whose socket is closed is killed.
"""

import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import TypedDict

from agentapi_mcp.cli import commands


class Command(TypedDict):
    """What to run."""

    words: Sequence[str]
    environ: dict[str, str]
    cwd: str


def main() -> None:
    """Serve until the other side has gone."""
    control = socket.socket(fileno=0)
    for module in ("agentapi_mcp.app.startup", "agentapi_mcp.app.services", "agentapi_mcp.backends.kinds.guide"):
        import_module(module)
    for command in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        import_module(command.name)
    gc.collect()
    gc.freeze()  # so that a child shares these pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 4)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            _attend(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _attend(answer_to: int, *streams: int) -> None:
    """Run one command in a child, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    answers = socket.socket(fileno=answer_to)
    with answers.makefile(encoding="utf-8") as lines:
        command: Command = json.loads(lines.readline())
    child = os.fork()
    if child == 0:
        answers.close()
        _become(command, streams)
        return
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, answers], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    answers.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(command: Command, streams: Sequence[int]) -> None:
    """Be the program, as `python -m agentapi_mcp` is."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(command["cwd"])
    os.environ.clear()  # noqa: TID251  # the program's own
    os.environ.update(command["environ"])  # noqa: TID251  # the same
    time.tzset()
    sys.argv = ["", *command["words"]]
    runpy.run_module("agentapi_mcp", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
