"""Stdin and stdout as the front left them: the server goes on where it stopped, and nothing is lost or said twice."""

import asyncio
import json
import logging
from io import BufferedReader, RawIOBase, TextIOWrapper

import anyio
from anyio import AsyncFile
from typing_extensions import Buffer, override

from agentapi_mcp.base import descriptors
from agentapi_mcp.base.long_lines import LineBound
from agentapi_mcp.edges.mcp.deliveries import RESPONSE
from agentapi_mcp.edges.mcp.front.thread import Handover

_log = logging.getLogger(__name__)


class UnreadInput(RawIOBase):
    """The bytes that the front has read and not answered, then those of a descriptor; long lines are cut."""

    def __init__(self, handover: Handover, descriptor: int) -> None:
        self._unread = handover.unread
        self._has_ended = handover.has_ended
        self._descriptor = descriptor
        self._bound = LineBound()
        self._passed = b""

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        while not self._passed:
            piece = self._read(len(view))
            if not piece:
                return 0
            self._passed = self._bound.passed(piece)
        piece, self._passed = self._passed[: len(view)], self._passed[len(view) :]
        view[: len(piece)] = piece
        return len(piece)

    def _read(self, size: int) -> bytes:
        if not self._unread and not self._has_ended:
            return descriptors.read(self._descriptor, size)
        piece = bytes(self._unread[:size])
        del self._unread[: len(piece)]
        return piece


class Output(RawIOBase):
    """A descriptor to write to; it stays open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        return self._descriptor

    @override
    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        descriptors.write(self._descriptor, view)
        return len(view)


def unread_lines(handover: Handover, descriptor: int) -> TextIOWrapper:
    """Read a descriptor from where the front stopped; it stays open."""
    return TextIOWrapper(BufferedReader(UnreadInput(handover, descriptor)), encoding="utf-8", errors="replace")


class HandedOver:
    """The client's lines and its pipe, in the place of both files.

    The first line is the request that opened the connection. It is read again by the server, whose answer the client
    has from the front: no other line is read, and so none is answered, before that one has come and was dropped.
    """

    def __init__(self, handover: Handover, lines: AsyncFile[str], pipe: AsyncFile[str]) -> None:
        self._handover = handover
        self._lines = lines
        self._pipe = pipe
        self._opening = handover.opening
        self._acknowledged = handover.acknowledged
        self._is_open = asyncio.Event()
        self._is_written = asyncio.Event()
        if self._opening is None:
            self._is_open.set()

    async def catch_up(self) -> None:
        """Write what the front has not; whatever the server writes meanwhile comes after it."""
        unwritten = bytes(self._handover.unwritten)
        if unwritten:
            await anyio.to_thread.run_sync(
                descriptors.write, self._pipe.wrapped.fileno(), unwritten, abandon_on_cancel=True
            )
        self._is_written.set()

    async def readline(self) -> str:
        """Return the next line; empty at the end."""
        opening, self._opening = self._opening, None
        if opening is not None:
            return opening.decode()
        await self._is_open.wait()
        return await self._lines.readline()

    async def write(self, line: str, /) -> object:
        """Write a line, unless the client has it."""
        if not self._is_open.is_set() and self._answers_opening(line):
            self._is_open.set()
            return None
        await self._is_written.wait()
        if self._acknowledged is not None and line.encode() == self._acknowledged:
            self._acknowledged, line = None, self._handover.instead.decode()
        return await self._pipe.write(line)

    async def flush(self) -> None:
        """Hand what was written to the reader's pipe."""
        if self._is_written.is_set():
            await self._pipe.flush()

    def _answers_opening(self, line: str) -> bool:
        found = RESPONSE.match(line)
        answer = (self._handover.answer or b"").decode()
        if found is None or json.loads(found[1]) != json.loads(answer)["id"]:
            return False
        if line != answer:
            _log.warning("front_answered_otherwise", extra={"server": line, "front": answer})
        return True
