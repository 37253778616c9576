"""What runs within the processes that are forked: the tests, with or without a change, and the Postgres under them."""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import coverage
import pytest
from coverage import CoverageData
from mutation.trying import Ended, Measured, Pipe, Runs, Where
from tests.support.databases import GIVEN_HOME, GIVEN_TEMPLATE, Seed, Server, Template, embedded_template

Tell = Callable[[object], None]

_TEMPLATE = "pristine"
_LEFT = "SELECT datname FROM pg_database WHERE datname = $1 OR datname LIKE 'test\\_%'"

# In the order given, with the same examples each time, and nothing kept for the next run.
_OPTIONS = (
    *("-q", "-n0", "-m", "not acceptance"),
    *("-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-seed=0"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # libraries that are loaded already assert nothing themselves
)


class _OnServer:
    """Runs the tests on a server that outlives them."""

    def __init__(self, where: Where) -> None:
        home, *template = where
        self._home, self._template = Path(home), Template(*template)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[GIVEN_HOME] = self._home
        config.stash[GIVEN_TEMPLATE] = self._template


class _Chosen:
    """Runs the given tests alone, in their order and within their seconds, and tells which one runs and if it fails."""

    def __init__(self, tell: Tell, tests: Sequence[tuple[str, float]]) -> None:
        self._tell = tell
        self._limits = dict(tests)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        order = {id_: place for place, id_ in enumerate(self._limits)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
        for item in items:
            item.add_marker(pytest.mark.timeout(self._limits[item.nodeid]), append=False)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell(Runs(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:  # told at once: what it leaves running may keep the rest from ending
            self._tell(Ended(pytest.ExitCode.TESTS_FAILED))


class _Measuring:
    """Notes of each test its seconds and the lines that it runs."""

    def __init__(self, files: Sequence[str]) -> None:
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=files)
        self._coverage.set_option("run:core", "ctrace")  # the others do not tell which test runs a line
        self._coverage.start()
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, bool, bool]:
        started = time.monotonic()
        self._coverage.switch_context(item.nodeid)
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - started
        return result

    def results(self) -> list[Measured]:
        """Stop, and return each test's identifier, seconds, and lines by file."""
        self._coverage.stop()
        lines = _lines_by_test(self._coverage.get_data())
        return [(test, seconds, lines.get(test, {})) for test, seconds in self.seconds.items()]


def measure(tell: Tell, where: Where, tests: Sequence[str], files: Sequence[str]) -> None:
    """Run all tests; tell pytest's exit code, and each test with its seconds and the lines of the files it runs."""
    measuring = _Measuring(files)
    code = pytest.main([*_OPTIONS, *tests], plugins=[_OnServer(where), measuring])
    tell((int(code), measuring.results()))


def attempt(tell: Tell, where: Where, tests: Sequence[tuple[str, float]]) -> None:
    """Run these tests, each within its seconds, until one fails; tell which one runs, and how they end."""
    files = list(dict.fromkeys(id_.partition("::")[0] for id_, _ in tests))
    code = pytest.main([*_OPTIONS, "--exitfirst", *files], plugins=[_OnServer(where), _Chosen(tell, tests)])
    tell(Ended(int(code)))


def serve(pipe: Pipe) -> None:
    """Keep a server with a migrated database, and say where it is, until the other end of the pipe is closed."""
    asyncio.run(_serve(pipe))


async def _serve(pipe: Pipe) -> None:
    with tempfile.TemporaryDirectory(prefix="run-", dir="/tmp", ignore_cleanup_errors=True) as place:
        await asyncio.to_thread(Path(place).chmod, 0o711)  # Postgres runs as another account where root runs the tests
        async with Seed(Path(place)).started("mu-") as server:
            template = embedded_template(server)
            await _copy(server, template.name)
            pipe.send((str(server.home), template.admin, _TEMPLATE, template.owner, template.app))
            with suppress(EOFError):
                while await asyncio.to_thread(pipe.recv):
                    await _renew(server, template.name)
                    pipe.send("renewed")


async def _copy(server: Server, name: str) -> None:
    connection = await asyncpg.connect(server.superuser)
    try:
        await connection.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE {name}")
    finally:
        await connection.close()


async def _renew(server: Server, name: str) -> None:
    """Drop what tests left behind, also the databases of those that were ended by force."""
    connection = await asyncpg.connect(server.superuser)
    try:
        for row in await connection.fetch(_LEFT, name):
            await connection.execute(f"DROP DATABASE {row['datname']} WITH (FORCE)")
        owner = urlsplit(server.urls.owner_url).username
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} OWNER {owner}")
    finally:
        await connection.close()
    await server.leave_agents()


def _lines_by_test(data: CoverageData) -> Mapping[str, dict[str, list[int]]]:
    tests: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            for test in contexts:
                tests[test].setdefault(file, []).append(line)
    return tests
