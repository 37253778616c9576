"""A world to break: replicas of the program, their stores, their provider, and what stands between them."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import asyncpg
import httpx2
from chaos.balancer import Balancer
from chaos.clients import open_http
from chaos.clocks import JumpingClock, clock_file, placed
from chaos.evidence import (
    INPUT_NANOS,
    OUTPUT_NANOS,
    Evidence,
    Life,
    Message,
    Outage,
    Turn,
    UsageTold,
    read_database,
    read_log,
)
from chaos.people import Person, settle
from chaos.postgres import APP, OWNER, Postgres, Programs
from chaos.processes import ROOT, SOURCE, Process, free_port, listens, python_path, send_all, start
from chaos.residents import Residents
from chaos.timing import now, until
from chaos.wire import Wire
from tests.support.valkey import Valkey
from typing_extensions import override

from agentapi_mcp.stores.postgres.server.launcher import EmbeddedPostgres
from agentapi_mcp.stores.postgres.server.paths import Home
from agentapi_mcp.stores.postgres.server.processes import find_server

AGENT = "stub"
LONGEST = 16  # tokens of an answer, of which some are longer: then a turn costs more than it reserved
_PROVIDER = Path(__file__).with_name("provider.py")
_CATALOGUE = f"""
use_defaults = false

[agents.{AGENT}]
backend = "openai"
description = "The provider of the trials."
default_model = "{{model}}"

[agents.{AGENT}.options]
base_url = "${{{{CHAOS_PROVIDER}}}}"
api_key = "${{{{CHAOS_PROCESS}}}}"

[[agents.{AGENT}.models]]
name = "{{model}}"
model_id = "{{model}}"
max_output_tokens = {LONGEST}
provider = "stub"
prices = {{{{ input = {INPUT_NANOS / 1000}, output = {OUTPUT_NANOS / 1000} }}}}
"""
# Wide enough for every scenario, and one that warns soon.
_BUDGETS = (("1000", "--period", "total"), ("0.0001", "--period", "day", "--member", "--soft"))
_OPEN = "SELECT count(*) FROM agentapi.turns WHERE ended_at IS NULL"
_READY_SECONDS = 90.0
_SMALL_DISK = "160m"


class Store(Protocol):
    """The database of a world, as faults treat it."""

    @property
    def admin_url(self) -> str:
        """Its address for the superuser."""
        ...

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        ...

    async def kill(self) -> None:
        """Kill all its processes at once."""
        ...

    async def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """Shut it down."""
        ...

    def freeze(self) -> None:
        """Let it stand still."""
        ...

    def thaw(self) -> None:
        """Let it go on."""
        ...


@dataclass
class EmbeddedStore(Store):
    """The embedded server of a home, which the program starts by itself."""

    home: Path
    user: EmbeddedPostgres = field(init=False)

    def __post_init__(self) -> None:
        self.user = EmbeddedPostgres(self.home)

    @property
    @override
    def admin_url(self) -> str:
        return f"postgresql://postgres@/agentapi?host={Home(self.home).sockets}"

    @property
    def _pid(self) -> int:
        server = find_server(str(Home(self.home).data))
        assert server is not None, "the embedded server does not run"
        return server.pid

    @override
    async def start(self) -> None:
        await asyncio.to_thread(self.user.ensure)

    @override
    async def kill(self) -> None:
        send_all(self._pid, signal.SIGKILL)

    @override
    async def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        os.kill(self._pid, sign)

    @override
    def freeze(self) -> None:
        send_all(self._pid, signal.SIGSTOP)

    @override
    def thaw(self) -> None:
        send_all(self._pid, signal.SIGCONT)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a world is made of; what has a number is of single replicas, `sources` are other checkouts to run."""

    replicas: int = 3
    wired: bool = False
    embedded: bool = False
    stdio: bool = False  # clients over stdio that share a server, in a home with its embedded Postgres; no replicas
    small_disk: bool = False
    postgres_settings: tuple[str, ...] = ()
    postgres_env: Mapping[str, str] = field(default_factory=dict[str, str])
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    env_of: Mapping[int, Mapping[str, str]] = field(default_factory=dict[int, Mapping[str, str]])
    sources: Mapping[int, Path] = field(default_factory=dict[int, Path])
    models: Mapping[int, str] = field(default_factory=dict[int, str])
    organizations: int = 0  # each with its part of the people, who send tokens of their own; 0 needs no token
    people: int = 0


THREE = Shape()


@dataclass
class Replica:
    """A place for one process of `serve` after the other, on the same port and home."""

    number: int
    home: Path
    env: Mapping[str, str]
    lives: list[Life]
    port: int = field(default_factory=free_port)
    _process: Process | None = None
    _starts: int = 0

    @property
    def url(self) -> str:
        """Its own address, past the balancer."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def said(self) -> str:
        """What its processes logged, from the first one on."""
        return self._log.read_text(encoding="utf-8")

    @property
    def process(self) -> Process:
        """The process that runs there, or ran there last."""
        assert self._process is not None
        return self._process

    @property
    def life(self) -> Life:
        """What is known of that process."""
        return next(life for life in reversed(self.lives) if life.process == self._name)

    @property
    def _log(self) -> Path:
        return self.home.with_suffix(".log")

    @property
    def _name(self) -> str:
        return f"replica-{self.number}.{self._starts}"

    async def start(self, *, ready: bool = True) -> None:
        """Start a process, whose key at the provider is its name."""
        self._starts += 1
        life = Life(process=self._name)
        self.lives.append(life)
        words = [sys.executable, "-m", "agentapi_mcp", "serve", "--port", str(self.port)]
        self._process = await start(words, self._log, {**self.env, "CHAOS_PROCESS": self._name})
        if ready:
            assert await until(self.is_ready, _READY_SECONDS), f"{self._name} is not ready: {self.said}"
            life.since = now()

    async def is_ready(self) -> bool:
        """Tell whether it takes calls."""
        assert not self.process.is_over, f"{self._name} ended: {self.said}"
        return await status_of(f"http://127.0.0.1:{self.port}/readyz") == 200

    async def kill(self) -> None:
        """Kill it."""
        life = self.life
        life.killed = True
        await self.process.end(signal.SIGKILL)
        life.until = now()

    async def stop(self) -> int:
        """Tell it to stop, and return with what status it ended."""
        self.life.stopping = now()
        status = await self.process.end(signal.SIGTERM)
        self.life.until = now()
        return status

    def freeze(self) -> None:
        """Let it stand still."""
        self.life.frozen.append(Outage(since=now()))
        self.process.send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_all(signal.SIGCONT)
        self.life.frozen[-1].until = now()


@dataclass
class World:
    """All of it."""

    place: Path
    shape: Shape
    store: Store
    replicas: Sequence[Replica]
    balancer: Balancer
    provider: "Provider"
    http: httpx2.AsyncClient
    valkey: Valkey | None
    wire: Wire | None
    lives: list[Life]
    outages: list[Outage]
    residents: Residents | None = None
    people: Sequence[Person] = ()
    usage: list[UsageTold] = field(default_factory=list[UsageTold])

    @cached_property
    def clock(self) -> JumpingClock:
        """The clock of Postgres."""
        return JumpingClock(self.place)

    @property
    def postgres(self) -> Postgres:
        """The database, where it is no embedded one."""
        assert isinstance(self.store, Postgres)
        return self.store

    async def open_turns(self) -> int:
        """Count the turns that have not ended."""
        connection = await asyncpg.connect(self.store.admin_url)
        try:
            return int(await connection.fetchval(_OPEN))
        finally:
            await connection.close()

    async def evidence(self, messages: Sequence[Message]) -> Evidence:
        """Read what there is to judge by."""
        self.provider.check()
        rows = await read_database(self.store.admin_url)
        return Evidence(
            at=now(),
            messages=messages,
            turns=[self._in_real_time(turn) for turn in rows.turns],
            stored=rows.stored,
            audited=rows.audited,
            entries=rows.entries,
            false_days=rows.false_days,
            periods=rows.periods,
            usage=self.usage,
            asked=read_log(self.provider.log),
            lives=self.lives,
            outages=self.outages,
            logged={f"replica-{replica.number}": replica.said for replica in self.replicas} | self._said_by_residents(),
        )

    def _in_real_time(self, turn: Turn) -> Turn:
        real_time = self.clock.real_time
        ended = None if turn.ended_at is None else real_time(turn.ended_at)
        return replace(turn, created_at=real_time(turn.created_at), ended_at=ended)

    def _said_by_residents(self) -> dict[str, str]:
        return {} if self.residents is None else {"resident": self.residents.said}


@dataclass
class Provider:
    """The provider's process, and its log, which outlives it."""

    place: Path
    port: int = field(default_factory=free_port)
    _process: Process | None = None

    @property
    def log(self) -> Path:
        """What it wrote down."""
        return self.place / "provider.jsonl"

    @property
    def process(self) -> Process:
        """Its process."""
        assert self._process is not None
        return self._process

    @property
    def url(self) -> str:
        """The address of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Start it."""
        words = [sys.executable, str(_PROVIDER), str(self.port), str(self.log)]
        self._process = await start(words, self.place / "provider.log", python_path())
        assert await until(lambda: listens(self.port), 30)
        self.check()

    def check(self) -> None:
        """Fail where it died by itself: what is asked then is not what a scenario is about."""
        assert not self.process.is_over, (self.place / "provider.log").read_text(encoding="utf-8")

    async def kill(self) -> None:
        """Kill it with all its answers."""
        await self.process.end(signal.SIGKILL)


@contextmanager
def open_place() -> Generator[Path]:
    """Make a directory with a short path, as sockets need, that Postgres's account may enter; it is removed."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True) as path:
        place = Path(path)
        place.chmod(0o711)
        yield place


@asynccontextmanager
async def open_world(shape: Shape, programs: Programs, chance: random.Random) -> AsyncGenerator[World]:
    """Bring a world up in a directory of its own; all that was started ends with the context."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(open_place())
        clock_file(place).write_text("+0\n", encoding="utf-8")
        provider = Provider(place)
        await provider.start()
        stack.push_async_callback(provider.kill)
        env = {"PATH": os.defpath, "CHAOS_PROVIDER": provider.url, "AGENTAPI_LOG_LEVEL": "warning", **python_path()}
        store, wire, more = await _open_store(stack, shape, place, programs, chance)
        valkey = _open_valkey(stack, place) if not _has_home(shape) else None
        if valkey is not None:
            more["AGENTAPI_REDIS_URL"] = valkey.url
        lives: list[Life] = []
        replicas = [_replica(shape, place, number, {**env, **more}, lives) for number in range(_replicas(shape))]
        residents = await _open_residents(stack, place, {**env, **more}, lives) if shape.stdio else None
        if isinstance(store, Postgres):
            await _migrate({**env, **more, "AGENTAPI_HOME": str(place), "AGENTAPI_DATABASE_URL": store.url(OWNER)})
        people: Sequence[Person] = ()
        if shape.people:
            assert isinstance(store, Postgres)
            people = await settle(store.admin_url, store.url(APP), shape.organizations, shape.people)
        else:
            await _set_budgets({**env, "AGENTAPI_HOME": str(place), **more, "CHAOS_PROCESS": "operator"})
        balancer = Balancer([replica.port for replica in replicas], chance)
        await stack.enter_async_context(balancer.open())
        http = await stack.enter_async_context(open_http())
        stack.push_async_callback(_stop, replicas)
        async with asyncio.TaskGroup() as group:
            for replica in replicas:
                group.create_task(replica.start())
        yield World(place, shape, store, replicas, balancer, provider, http, valkey, wire, lives, [], residents, people)


async def _open_store(
    stack: AsyncExitStack, shape: Shape, place: Path, programs: Programs, chance: random.Random
) -> tuple[Store, Wire | None, dict[str, str]]:
    """Bring the database up; return it, the wire before it, and what the program has to know of them."""
    if _has_home(shape):
        home = place / "home"
        embedded = EmbeddedStore(home)
        await embedded.start()
        stack.callback(embedded.user.release)
        return embedded, None, {"AGENTAPI_HOME": str(home), "AGENTAPI_POSTGRES_LINGER_SECONDS": "5"}
    data = place / "postgres"
    if shape.small_disk:
        _mount(stack, data)
    postgres = Postgres(programs, data, shape.postgres_settings, placed(shape.postgres_env, place))
    stack.push_async_callback(postgres.stop, signal.SIGQUIT)
    await postgres.make()
    wire = Wire(postgres.port, chance) if shape.wired else None
    if wire is not None:
        await stack.enter_async_context(wire.open())
    return postgres, wire, {"AGENTAPI_DATABASE_URL": postgres.url(APP, None if wire is None else wire.port)}


def _has_home(shape: Shape) -> bool:
    return shape.embedded or shape.stdio


def _replicas(shape: Shape) -> int:
    return 0 if shape.stdio else shape.replicas


async def _open_residents(stack: AsyncExitStack, place: Path, env: Mapping[str, str], lives: list[Life]) -> Residents:
    residents = Residents(place, env, _CATALOGUE.format(model="instant"), lives)
    await stack.enter_async_context(residents.open())
    return residents


def _open_valkey(stack: AsyncExitStack, place: Path) -> Valkey:
    valkey = Valkey(place)
    valkey.start()
    stack.callback(valkey.stop)
    return valkey


def _mount(stack: AsyncExitStack, place: Path) -> None:
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK}", "tmpfs", str(place)]
    subprocess.run(words, check=True)  # noqa: S603  # the system's own, on a directory of ours
    stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)


def _replica(shape: Shape, place: Path, number: int, env: Mapping[str, str], lives: list[Life]) -> Replica:
    home = place / f"replica-{number}"
    home.mkdir()
    model = shape.models.get(number, "instant")
    catalogue = place / f"agentapi-{model}.toml"  # one file for all replicas that have the same
    catalogue.write_text(_CATALOGUE.format(model=model))
    own = {"AGENTAPI_HOME": str(home), **env, "AGENTAPI_CONFIG": str(catalogue)}
    if shape.people:
        own |= {"AGENTAPI_REQUIRE_TOKEN": "true"}
    own |= {
        **python_path(shape.sources.get(number, SOURCE)),
        **placed({**shape.env, **shape.env_of.get(number, {})}, place),
    }
    return Replica(number, home, own, lives)


async def _migrate(env: Mapping[str, str]) -> None:
    await _run(env, "migrate", "--grant-to", APP)


async def _set_budgets(env: Mapping[str, str]) -> None:
    for words in _BUDGETS:
        await _run(env, "budgets", "set", *words)


async def _run(env: Mapping[str, str], *words: str) -> None:
    """Run a command of the program's operator."""
    command = (sys.executable, "-m", "agentapi_mcp", *words)
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(env), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def _stop(replicas: Sequence[Replica]) -> None:
    for replica in replicas:
        if not replica.process.is_over:
            replica.process.send_all(signal.SIGCONT)
            await replica.process.end(signal.SIGKILL)


async def status_of(url: str, within: float = 5.0) -> int | None:
    """Return the status that an address answers with; None where nothing answers in time."""
    parts = httpx2.URL(url)
    try:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_connection(parts.host, parts.port)
            try:
                writer.write(f"GET {parts.path} HTTP/1.1\r\nhost: {parts.host}\r\nconnection: close\r\n\r\n".encode())
                found = re.match(rb"HTTP/1.1 (\d+)", await reader.readline())
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return None if found is None else int(found[1])
