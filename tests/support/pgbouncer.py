"""A real PgBouncer before a server, which a test may kill and start again."""

import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentapi_mcp.stores.postgres.server.servers import APP, OWNER
from tests.support.clusters import Cluster, server_account
from tests.support.debian import debian_program
from tests.support.waiting import wait_until

_CONFIG = """
[databases]
* = host={server}
[pgbouncer]
unix_socket_dir = {place}
listen_port = 5432
auth_type = trust
auth_file = {place}/users
pool_mode = {mode}
default_pool_size = {connections}
max_client_conn = 200
"""


@dataclass
class PgBouncer:
    """A pooler on a socket in a directory of its own; `connections` are those to the server, of each login."""

    server: Cluster
    place: Path
    mode: str = "transaction"
    connections: int = 3
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    program: Path = field(init=False)

    def __post_init__(self) -> None:
        """Write its files where the account that runs it may read them: it refuses to run as root."""
        self.place.mkdir(mode=0o755)
        server_account().chown(self.place)
        found = debian_program("pgbouncer", "libc-ares2")
        self.program = found
        if found.name == "run":  # in the directory of the clone, where another account may not come
            copied = shutil.copytree(found.parent, self.place / "program")
            self.program = copied / "run"
        users = "".join(f'"{login}" ""\n' for login in (APP, OWNER))
        (self.place / "users").write_text(users, encoding="utf-8")
        config = _CONFIG.format(
            server=self.server.place, place=self.place, mode=self.mode, connections=self.connections
        )
        (self.place / "config").write_text(config, encoding="utf-8")

    def address(self, login: str, database: str) -> str:
        """Return the address of a database through it."""
        return f"postgresql://{login}@/{database}?host={self.place}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        account = server_account()
        self.process = subprocess.Popen(  # noqa: S603  # Debian's
            [self.program, "--quiet", self.place / "config"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=account.uid if account.is_other else None,
            group=account.gid if account.is_other else None,
            extra_groups=[] if account.is_other else None,
        )
        wait_until(self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.place / ".s.PGSQL.5432")) == 0

    def kill(self) -> None:
        """Kill it at once: its clients and its connections to the server are cut."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            (self.place / ".s.PGSQL.5432").unlink(missing_ok=True)


@contextmanager
def open_pgbouncer(
    server: Cluster, place: Path, *, mode: str = "transaction", connections: int = 3
) -> Generator[PgBouncer]:
    """Run one until the context ends."""
    pooler = PgBouncer(server, place, mode, connections)
    pooler.start()
    try:
        yield pooler
    finally:
        pooler.kill()
