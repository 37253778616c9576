"""A run of a client: it does a script, one call after the other, and can be stopped as its user would."""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.timing import now
from clients.place import Place
from clients.programs import ENVIRONMENT, Prompted
from clients.provider import Script

_PROMPT = "Do what there is to do with the tools of agentapi."
_WITHIN = 300.0


@dataclass
class PromptedRun:
    """A client with a model, as a process that is given a prompt."""

    client: Prompted
    place: Place
    transport: str
    script: Script
    output: Path = field(init=False)
    began: float = 0.0
    _process: asyncio.subprocess.Process | None = None

    async def finish(self) -> None:
        """Start the client, and wait for its end."""
        # As in the background of a shell: the client would inherit it, and be deaf to Ctrl-C.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        home = self.place.new_folder()
        self.output = home / "output"
        self.place.provider.script = self.script
        started = await asyncio.to_thread(
            self.client.prepare, home, self.place.target(self.transport), self.place.provider.base
        )
        self.began = now()
        with self.output.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *started.words,
                _PROMPT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=home,
                env={**ENVIRONMENT, "HOME": str(home), "TMPDIR": str(home), **started.env},
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(_WITHIN):
                await self._process.wait()
        finally:
            self._end()

    async def stop(self) -> None:
        """Stop as Ctrl-C does: the terminal tells the client and what it started."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)

    def said(self) -> str:
        """Return the end of what it wrote, to say why it gave up."""
        return self.output.read_text(errors="replace")[-2000:]

    def _end(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
