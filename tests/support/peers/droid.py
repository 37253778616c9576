"""A peer that speaks as the Droid CLI does, beside the test that hears from it over a socket."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentapi_mcp.base.errors import BackendFault
from agentapi_mcp.core.backends.models import BackendTurn
from agentapi_mcp.testing.peers import STOPS, BackendDeadlines, Behaviour, Peer, backend_turn
from tests.support.peers.cases import BuiltInCase
from tests.support.peers.droid_cli import ASKS, REFUSALS
from tests.support.peers.faults import ANSWERED, Expected, faults_of

KEY = "droid-test-0123456789abcdef"  # looks like no key: only a Redactor that knows it hides it
WORDS: dict[Behaviour, str] = {
    Behaviour.ANSWERS: "answer",
    Behaviour.RECALLS: "recall",
    Behaviour.WAITS: "waits",
    Behaviour.HANGS: "hang",
    Behaviour.DRIPS: "drip",
    Behaviour.CUT: "cut",
    Behaviour.DROPPED: "drop",
    Behaviour.BAD_REQUEST: "e400",
    Behaviour.UNAUTHORIZED: "e401",
    Behaviour.NO_CREDIT: "e402",
    Behaviour.FORBIDDEN: "e403",
    Behaviour.UNKNOWN_MODEL: "nowhere",
    Behaviour.BROKEN: "e500",
    Behaviour.BAD_GATEWAY: "e502",
    Behaviour.UNAVAILABLE: "e503",
    Behaviour.OVERLOADED: "e529",
    Behaviour.TOO_LONG: "toolong",
    Behaviour.FAILS_LATE: "late",
    Behaviour.LEAKS: "leak",
    Behaviour.REPEATS: "repeats",
    Behaviour.EXPLAINS: "explains",
    Behaviour.COUNTS_IN_TEXT: "texts",
    Behaviour.UNCOUNTED: "zeros",
}


@dataclass
class DroidPeer:
    """A program that speaks as the CLI does, and says to this socket what it was asked."""

    given: dict[str, object]
    asked_times: int = 0
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    was_freed: asyncio.Event = field(default_factory=asyncio.Event)

    def options(self, deadlines: BackendDeadlines) -> Mapping[str, object]:
        """Return the options with these deadlines; the program is always given time to start."""
        return {
            **self.given,
            "idle_timeout_seconds": deadlines.idle.total_seconds(),
            "total_timeout_seconds": deadlines.total.total_seconds(),
        }

    def turn(self, word: str) -> BackendTurn:
        """Name the word in the model's name."""
        return backend_turn(model_id=f"custom:{word}")

    def credentials(self) -> Sequence[str | None]:
        """Return None for each turn: the program knows its key from its environment."""
        return [None] * self.asked_times

    def limits(self) -> Sequence[int | None]:
        """Return None for each turn: the program takes no limit."""
        return [None] * self.asked_times

    async def turn_received(self) -> None:
        """Wait for the message."""
        await self.was_asked.wait()

    async def freed(self) -> None:
        """Wait until the program was interrupted, or is gone."""
        await self.was_freed.wait()

    async def stop(self) -> None:
        """Do nothing: there is nothing that could be reached."""

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Follow one run of the program."""
        while line := await reader.readline():
            if line == b"asked\n":
                self.asked_times += 1
                self.was_asked.set()
            else:
                self.was_freed.set()
        self.was_freed.set()
        writer.close()


@asynccontextmanager
async def droid_peer() -> AsyncGenerator[DroidPeer]:
    """Make the program, and listen for what it is asked."""
    with tempfile.TemporaryDirectory(prefix="droid-", dir="/tmp") as home:
        command = Path(home) / "droid"
        script = Path(__file__).with_name("droid_cli.py")
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{script}" "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        peer = DroidPeer({"command": str(command), "cwd": home, "max_processes": 100})
        async with await asyncio.start_server(peer.hear, "127.0.0.1", 0) as server:
            port = str(server.sockets[0].getsockname()[1])
            peer.given["env"] = {"STUB_KEY": KEY, "STUB_PORT": port}
            yield peer


class DroidCase:
    """Runs the contract suite."""

    kind = "droid"
    variants = ("streamed",)
    words: Mapping[Behaviour, str] = WORDS
    answer = "w0 w1 "
    not_applicable: Mapping[Behaviour, str] = {
        Behaviour.NONSENSE: "what is no message is for a person to read, and passed over",
        Behaviour.EMPTY: "a turn that ended with a refused permission says nothing, and is completed",
        Behaviour.BUSY: "the CLI tries again by itself, and does not say when to come back",
        Behaviour.SAYS_WHEN: "the CLI tries again by itself, and does not say when to come back",
        Behaviour.MODERATED: "the CLI hands on the message alone, without the provider's words for it",
        Behaviour.FAILS_BY_NAME: "the CLI has one form for a failure",
        Behaviour.REASONS: "the CLI tells thoughts apart",
        **dict.fromkeys(STOPS, "the CLI does not say why the model stopped"),
        **dict.fromkeys(
            (Behaviour.ODD, Behaviour.LINGERS, Behaviour.BABBLES, Behaviour.FAILS_AFTER, Behaviour.ENDS_EARLY),
            "a turn ends with one message of the CLI, which runs on",
        ),
    }
    unreachable: str | None = "a program is started, not reached"
    bills_refusals: str | None = "the CLI asks its model as often as it likes before it gives a turn up"
    secrets = (KEY,)

    def in_pieces(self, variant: str) -> bool:
        """Tell that it streams."""
        del variant
        return True

    def faults(self, variant: str) -> Mapping[str, Expected]:
        """Tell the faults of the CLI, which bills what was refused too."""
        del variant
        table = faults_of(WORDS, streams=True)
        table |= {word: replace(table[word], billed=True) for word in REFUSALS if word in table}
        return table | {
            "e404": Expected(fault=BackendFault.NOT_FOUND, billed=True),
            "cut": Expected(fault=BackendFault.STREAM_CUT, reply="w0 "),
            "late": Expected(fault=BackendFault.UPSTREAM, reply="w0 ", billed=True),
            **dict.fromkeys(ASKS, ANSWERED),
            "ask": replace(ANSWERED, warning="was refused: Execute."),
            "forge": replace(ANSWERED, warning='was refused: "x · session_id y".'),
            "question": replace(ANSWERED, warning="was refused: a question to you."),
        }

    @asynccontextmanager
    async def start(self, variant: str) -> AsyncGenerator[Peer]:
        """Make the program."""
        del variant
        async with droid_peer() as peer:
            yield peer


CASE: BuiltInCase = DroidCase()
