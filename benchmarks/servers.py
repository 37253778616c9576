"""The processes that are measured, and what they cost: their CPU time and their memory."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from tests.support.valkey import Valkey
from tests.support.waiting import wait_until
from typing_extensions import override

ROOT = Path(__file__).parents[1]
FLOOR = [sys.executable, str(ROOT / "benchmarks" / "floor.py")]
PRODUCT = [sys.executable, "-m", "agentapi_mcp"]
_CATALOGUE = """
use_defaults = false

[agents.guide]
backend = "guide"

[agents.bench]
backend = "openai"
description = "The provider of the benchmarks."
default_model = "instant"

[agents.bench.options]
base_url = "{provider}"
api_key = "none"
"""
_MODEL = """
[[agents.bench.models]]
name = "{name}"
model_id = "{name}"
provider = "bench"
context_window = 128_000
"""
MODELS = ("instant", "half-second", "chunks-200", "stamp", "flood")


@dataclass(frozen=True)
class Process:
    """A server, and where it listens."""

    pid: int
    url: str = ""

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used, to the nanosecond (Linux)."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def switches(self) -> int:
        """Return how often its main thread has waited for something."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    def memory(self) -> float:
        """Return its resident memory in MB."""
        return resident(self.pid)


class Postgres(Process):
    """A postmaster with its children."""

    @override
    def cpu(self) -> float:
        """Return the seconds of CPU of all, of those that have ended to a hundredth of a second."""
        total = super().cpu()
        for child in _words(Path(f"/proc/{self.pid}/task/{self.pid}/children")):
            with suppress(FileNotFoundError):  # it ends just now
                total += Process(int(child)).cpu()
        times_of_ended = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[13:15]
        return total + sum(map(int, times_of_ended)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """The product and the floor, both before the same provider; `home` is the product's."""

    product: Process
    floor: Process
    provider: str
    home: Path
    valkey: Process

    def postgres(self) -> Postgres:
        """Return the product's Postgres."""
        return Postgres(int(_words(self.home / "pg18" / "data" / "postmaster.pid")[0]))


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a product process on this home, and nothing of this shell's."""
    given = {"AGENTAPI_HOME": str(home), "PATH": os.defpath, "AGENTAPI_POSTGRES_LINGER_SECONDS": "5"}
    return given | {"AGENTAPI_RESIDENT": "0"} | more  # what is measured is the process that is started


@contextmanager
def new_home(provider: str) -> Generator[Path]:
    """Make a home whose agent `bench` asks the provider; what it holds is removed."""
    place = Path(tempfile.mkdtemp(prefix="bench-"))
    place.chmod(0o711)
    home = place / "home"
    home.mkdir(mode=0o711)
    text = _CATALOGUE.format(provider=provider) + "".join(_MODEL.format(name=name) for name in MODELS)
    (home / "agentapi.toml").write_text(text)
    try:
        yield home
    finally:
        wait_until(lambda: not (home / "pg18" / "data" / "postmaster.pid").exists(), seconds=60)
        shutil.rmtree(place)


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def process(words: Sequence[str], env: dict[str, str] | None = None) -> Generator[subprocess.Popen[bytes]]:
    """Run a process of ours until the context ends."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # it is closed with the process
    running = subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)  # noqa: S603  # ours
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        if running.wait(30) not in {0, -signal.SIGTERM}:
            errors.seek(0)
            sys.stderr.write(errors.read().decode()[-2000:])
        errors.close()


@contextmanager
def provider() -> Generator[str]:
    """Run the provider."""
    port = free_port()
    with process([sys.executable, str(ROOT / "benchmarks" / "provider.py"), str(port)]):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/models"))
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def product(home: Path, *options: str, **more: str) -> Generator[Process]:
    """Run `serve` on this home."""
    port = free_port()
    words = [*PRODUCT, "serve", "--port", str(port), *options]
    with process(words, environment(home, AGENTAPI_LOG_LEVEL="warning", **more)) as running:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), seconds=60)
        yield Process(running.pid, f"http://127.0.0.1:{port}/mcp")


@contextmanager
def bench() -> Generator[Bench]:
    """Run the provider, a Valkey, the product with an embedded Postgres, and the floor."""
    with ExitStack() as stack:
        source = stack.enter_context(provider())
        home = stack.enter_context(new_home(source))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        valkey = Valkey(place)
        valkey.start()
        stack.callback(valkey.stop)
        port = free_port()
        running = stack.enter_context(process([*FLOOR, str(port), source]))
        floor = Process(running.pid, f"http://127.0.0.1:{port}/mcp")
        wait_until(lambda: listens(port))
        served = stack.enter_context(product(home, AGENTAPI_REDIS_URL=valkey.url))
        assert valkey.process is not None
        yield Bench(served, floor, source, home, Process(valkey.process.pid))


def answers(url: str) -> bool:
    """Tell whether something answers there, and well."""
    try:
        return httpx2.get(url, timeout=5).is_success
    except httpx2.HTTPError:
        return False


def listens(port: int) -> bool:
    """Tell whether somebody listens there; a GET would hang at the floor."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def median(numbers: Sequence[float]) -> float:
    """Return the middle one."""
    return percentile(numbers, 50)


def percentile(numbers: Sequence[float], percent: float) -> float:
    """Return the number that so many per cent do not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def now() -> float:
    """Return the time in seconds, of a clock that all processes share."""
    return time.monotonic()
