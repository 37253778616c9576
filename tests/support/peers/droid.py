"""A peer that speaks as the Droid CLI does, beside the test that hears from it over a socket."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentapi_mcp.backends import registry
from agentapi_mcp.core.ports import Backend, BackendHost
from agentapi_mcp.core.records.backends import BackendTurn
from tests.support.peers.cases import BackendCase, Behaviour, Patience, Rig, backend_turn

KEY = "sk-droid-test-0123456789abcdef"
_PROVOKES: dict[Behaviour, str] = {
    Behaviour.ANSWERS: "answer",
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
}


@dataclass
class DroidRig:
    """The backend beside the program."""

    backend: Backend
    was_asked: asyncio.Event
    was_freed: asyncio.Event

    def turn(self, behaviour: Behaviour) -> BackendTurn:
        """Name the behaviour in the model's name."""
        return backend_turn(model_id=f"custom:{_PROVOKES[behaviour]}")

    async def asked(self) -> None:
        """Wait for the message."""
        await self.was_asked.wait()

    async def freed(self) -> None:
        """Wait until the program was interrupted, or is gone."""
        await self.was_freed.wait()

    async def stop(self) -> None:
        """Do nothing: there is nothing that could be reached."""


class DroidCase:
    """Runs the contract suite."""

    variants = ("streamed",)
    not_applicable: Mapping[Behaviour, str] = {
        Behaviour.NONSENSE: "what is no message is for a person to read, and passed over",
        Behaviour.EMPTY: "a turn that ended with a refused permission says nothing, and is completed",
        Behaviour.BUSY: "the CLI tries again by itself, and does not say when to come back",
        Behaviour.MODERATED: "the CLI hands on the message alone, without the provider's words for it",
    }
    unreachable: str | None = "a program is started, not reached"
    secrets = (KEY,)

    def in_pieces(self, variant: str) -> bool:
        """Tell that it streams."""
        del variant
        return True

    @asynccontextmanager
    async def open(self, variant: str, host: BackendHost, patience: Patience) -> AsyncGenerator[Rig]:
        """Listen for the program and build the backend that starts it."""
        del variant
        async with droid_rig(
            host,
            idle_timeout_seconds=patience.idle.total_seconds(),
            total_timeout_seconds=max(patience.total.total_seconds(), 1.0),
        ) as rig:
            yield rig


@dataclass
class DroidPlace:
    """A program that speaks as the CLI does, and hears of its test."""

    options: dict[str, object]
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)
    was_freed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def droid_place() -> AsyncGenerator[DroidPlace]:
    """Make the program, and listen for what it is asked."""
    with tempfile.TemporaryDirectory(prefix="droid-", dir="/tmp") as home:
        command = Path(home) / "droid"
        script = Path(__file__).with_name("droid_cli.py")
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{script}" "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        place = DroidPlace({})

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                (place.was_asked if line == b"asked\n" else place.was_freed).set()
            place.was_freed.set()
            writer.close()

        async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
            port = str(server.sockets[0].getsockname()[1])
            place.options |= {"command": str(command), "cwd": home, "env": {"STUB_KEY": KEY, "STUB_PORT": port}}
            yield place


@asynccontextmanager
async def droid_rig(host: BackendHost, **options: object) -> AsyncGenerator[DroidRig]:
    """Build the backend with these options beside a place that hears of its programs."""
    async with droid_place() as place:
        rig = DroidRig(registry.create("droid", place.options | options, host), place.was_asked, place.was_freed)
        try:
            yield rig
        finally:
            await rig.backend.aclose()


CASE: BackendCase = DroidCase()
