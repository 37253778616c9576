"""Where a trial takes place: a home of the program with one agent, and its server over HTTP, which can be restarted."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from chaos.processes import Process, free_port, listens, python_path, start
from chaos.timing import until
from clients.provider import Provider

_PROGRAM = Path(sys.executable).parent / "agentapi-mcp"
_READY_WITHIN = 120.0
_WAIT_SECONDS, _GRACE_SECONDS = 45, 15  # the defaults of the program
_CONFIG = """\
[agents.peer]
backend = "openai"
default_model = "fake"
[agents.peer.options]
base_url = "{base}/agent/v1"
api_key = "sk-0123456789"
[[agents.peer.models]]
name = "fake"
model_id = "fake"
provider = "fake"
"""


@dataclass(frozen=True)
class Target:
    """The server as a client is told of it: an address, or a command with its environment."""

    url: str | None
    command: Sequence[str]
    env: Mapping[str, str]

    def as_json(self) -> str:
        """Return it as JSON: `url`, `command`, `args`, `env`."""
        return json.dumps(
            {"url": self.url, "command": self.command[0], "args": list(self.command[1:]), "env": dict(self.env)}
        )


@dataclass
class Place:
    """A home, its provider, and what runs."""

    folder: Path
    provider: Provider
    env: Mapping[str, str]
    scale: float  # how long a second is
    port: int = field(default_factory=free_port)
    through: str | None = None  # another address of the server, to which clients over HTTP are sent
    _server: Process | None = None
    _folders: int = 0

    @property
    def url(self) -> str:
        """The server's address over HTTP."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def target(self, transport: str) -> Target:
        """Tell how a client reaches the server."""
        url = (self.through or self.url) if transport == "http" else None
        return Target(url, [str(_PROGRAM)], {} if url else self.env)

    def new_folder(self) -> Path:
        """Make an empty folder, for example for a client's home."""
        self._folders += 1
        made = self.folder / f"client{self._folders}"
        made.mkdir()
        return made

    async def start_server(self) -> None:
        """Start the server over HTTP, and wait until it listens."""
        words = [str(_PROGRAM), "serve", "--port", str(self.port)]
        self._server = await start(words, self.folder / "server.log", self.env)
        assert await until(lambda: listens(self.port), _READY_WITHIN), (self.folder / "server.log").read_text()

    async def stop_server(self) -> None:
        """End the server as an operator does."""
        if self._server is not None:
            await self._server.end(signal.SIGTERM)

    async def ensure_server(self) -> None:
        """Start the server unless it runs."""
        if self._server is None or self._server.is_over:
            await self.start_server()

    async def restart_server(self) -> None:
        """End it, and start it anew on the same port."""
        await self.stop_server()
        await self.start_server()

    async def stop_shared(self) -> None:
        """End what clients over stdio share."""
        ended = await asyncio.create_subprocess_exec(
            str(_PROGRAM),
            "stop",
            env={**self.env},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await ended.wait()


def _make_home(home: Path, base: str) -> None:
    home.parent.chmod(0o711)
    home.mkdir(mode=0o711)
    (home / "agentapi.toml").write_text(_CONFIG.format(base=base))


@asynccontextmanager
async def open_place(provider: Provider, scale: float) -> AsyncGenerator[Place]:
    """Make a home with one agent, where a second is as long as `scale` says; end what was started there."""
    with TemporaryDirectory(prefix="clients-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        home = folder / "home"
        await asyncio.to_thread(_make_home, home, provider.base)
        env = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "AGENTAPI_HOME": str(home),
            # As on a user's machine; in a container, each client would have a server of its own.
            "AGENTAPI_RESIDENT": "1",
            "AGENTAPI_POSTGRES_LINGER_SECONDS": "5",
            "AGENTAPI_WAIT_SECONDS": str(max(1, round(_WAIT_SECONDS * scale))),
            "AGENTAPI_ABANDON_GRACE_SECONDS": str(max(1, round(_GRACE_SECONDS * scale))),
            **python_path(),
        }
        place = Place(folder, provider, env, scale)
        try:
            yield place
        finally:
            await place.stop_server()
            await place.stop_shared()
