"""A real nginx in front of a server: a process of the test on a loopback port, with the server block of a page."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.debian import debian_program

_MAIN = """
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    scgi_temp_path {place}/scgi;
    uwsgi_temp_path {place}/uwsgi;
    {server}
}}
"""


@dataclass(frozen=True)
class ReservedPort:
    """A port of 127.0.0.1 that is held for one that listens with SO_REUSEPORT."""

    number: int

    @property
    def origin(self) -> str:
        """Its address over TLS."""
        return f"https://localhost:{self.number}"


def nginx_program() -> Path:
    """Return an nginx that runs; skip the test where there is none, but not in CI."""
    return debian_program("nginx")


@asynccontextmanager
async def reserved_port() -> AsyncGenerator[ReservedPort]:
    """Hold a port, so that it is known before the proxy that listens on it can be started."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield ReservedPort(held.getsockname()[1])


@asynccontextmanager
async def nginx(program: Path, place: Path, server: str) -> AsyncGenerator[None]:
    """Run nginx with this server block until the context ends."""
    config = _write(place, server)
    process = await asyncio.create_subprocess_exec(program, "-c", config, stderr=asyncio.subprocess.PIPE)
    try:
        yield
    finally:
        process.terminate()
        _, errors = await process.communicate()
    assert b"[emerg]" not in errors, errors.decode()


def _write(place: Path, server: str) -> Path:
    place.mkdir()
    config = place / "nginx.conf"
    config.write_text(_MAIN.format(place=place, server=server), encoding="utf-8")
    return config
