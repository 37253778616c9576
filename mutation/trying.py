"""Try mutants one after the other, each in a process of its own that is forked with the libraries loaded already."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import CodeType, ModuleType
from typing import Any, Protocol, TypeAlias

from mutation.mutants import ROOT, Mutant, path_of, untouched_by
from typing_extensions import override

# The directory of a home, the address for the superuser, the database to be copied, and its addresses for its logins.
Where = tuple[str, str, str, str, str]
# The identifier of a test, its seconds, and the lines that it runs by file.
Measured = tuple[str, float, Mapping[str, Sequence[int]]]
Pipe: TypeAlias = "Connection[Any, Any]"  # it takes arguments for the type checker alone

_LOG = ROOT / ".cache" / "mutation.log"
_FORK = multiprocessing.get_context("fork")
# Loaded once for all mutants, with the parts of the program that are not built on the engine.
_LIBRARIES = (
    *("_pytest.assertion.rewrite", "anyio.pytest_plugin", "pytest_asyncio.plugin", "pytest_timeout"),
    *("asyncpg", "hypothesis", "httpx2", "pydantic_settings", "starlette.routing"),
)
# Many times what the tests take without a change, since the machine has others to serve: this ends what hangs.
_LEAST_SECONDS, _SECONDS_MORE, _TIMES = 30.0, 60.0, 5.0
_IMPORT = "its import"


@dataclass(frozen=True, slots=True)
class Test:
    """A test of the engine: how long it takes, and which lines of which module it runs."""

    id: str
    seconds: float
    lines: Mapping[str, frozenset[int]]

    @property
    def file(self) -> str:
        """Where it is."""
        return self.id.partition("::")[0]

    @property
    def limit(self) -> float:
        """After how many seconds it counts as failed."""
        return max(_LEAST_SECONDS, _TIMES * self.seconds)


@dataclass(frozen=True, slots=True)
class Runs:
    """A test begins."""

    id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """All tests have passed, or the one that runs has failed: pytest's exit code."""

    code: int


class _Said(Protocol):
    """The end of a pipe that is read."""

    def poll(self, timeout: float | None = ..., /) -> bool: ...

    def recv(self) -> Any: ...  # noqa: ANN401  # whatever was sent


class Server:
    """The Postgres that all mutants are tried on, which a process of its own keeps."""

    def __init__(self) -> None:
        self._pipe, there = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(there, self._pipe))
        self._process.start()
        there.close()
        self._where: Where = self._pipe.recv()

    def renewed(self) -> Where:
        """Return where it is; the home of whole programs is as if no test had used it."""
        self._pipe.send("renew")
        self._pipe.recv()
        return self._where

    def close(self) -> None:
        """Stop it."""
        self._pipe.close()
        self._process.join()


def load_libraries(modules: Sequence[str]) -> None:
    """Load what the tests need and no mutant of these modules changes."""
    for name in (*_LIBRARIES, *untouched_by(modules)):
        importlib.import_module(name)


def measure(server: Server, tests: Sequence[str], modules: Sequence[str]) -> list[Test]:
    """Run all tests without a change, and return them; none may fail."""
    files = {module: str(path_of(module)) for module in modules}
    with _asked("measure", (server.renewed(), tests, list(files.values()))) as pipe:
        said: tuple[int, list[Measured]] = pipe.recv()
    if said[0]:
        raise SystemExit(f"Tests fail without a change: see {_LOG}.")
    return [
        Test(id_, seconds, {module: frozenset(lines.get(file, ())) for module, file in files.items()})
        for id_, seconds, lines in said[1]
    ]


def killer(server: Server, mutant: Mutant, tests: Sequence[Test]) -> tuple[str | None, list[str]]:
    """Return the first test that a mutant fails, None if it passes all, and the tests that failed for another reason.

    A test that fails counts only if it then passes without the change, and fails with it once more: on a busy machine
    some test may fail by itself.
    """
    left, doubtful = list(tests), list[str]()
    while left and (failed := _first_failure(server, mutant, left)) is not None:
        # What no module imports any more, one test of each file tells.
        chosen = [test for test in left if test.id == failed] or list({test.file: test for test in left}.values())
        if _first_failure(server, None, chosen) is None and _first_failure(server, mutant, chosen) is not None:
            return failed, doubtful
        doubtful.append(failed)
        places = [place for place, test in enumerate(left, 1) if test.id == failed]
        left = left[places[0] :] if places else []
    return None, doubtful


def _first_failure(server: Server, mutant: Mutant | None, tests: Sequence[Test]) -> str | None:
    """Run tests in this order; return the first one that fails, hangs or ends its process, and None if all pass."""
    limits = {test.id: test.limit for test in tests}
    with _asked("attempt", (server.renewed(), list(limits.items())), mutant) as said:
        running = _IMPORT
        with suppress(EOFError):
            while said.poll(_SECONDS_MORE + limits.get(running, 0.0)):
                told: Runs | Ended = said.recv()
                if isinstance(told, Ended):
                    return running if told.code else None
                running = told.id
    return running


@contextmanager
def _asked(function: str, given: Sequence[object], mutant: Mutant | None = None) -> Generator[_Said]:
    """Call a function of `inside` in a fork of this process, which ends with the context, and yield what it tells."""
    here, there = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_answer, args=(there, function, given, mutant))
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.kill()
        process.join()
        here.close()


def _answer(pipe: Pipe, function: str, given: Sequence[object], mutant: Mutant | None) -> None:
    _be_quiet()
    if mutant is not None:
        if mutant.module in sys.modules:
            raise ImportError(mutant.module, "is loaded already, without the change")
        sys.meta_path.insert(0, _Finder(mutant))
    getattr(importlib.import_module("mutation.inside"), function)(pipe.send, *given)


def _serve(pipe: Pipe, other_end: Pipe) -> None:
    other_end.close()  # forked with it; while it is open here, its end is not noticed
    _be_quiet()
    importlib.import_module("mutation.inside").serve(pipe)


def _be_quiet() -> None:
    """Write nothing on the terminal, of which the results are."""
    nowhere = os.open(_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the mutant in the place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    @override
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        source = str(path_of(fullname))
        return importlib.util.spec_from_file_location(
            fullname, source, loader=_Loader(fullname, source, self._mutant.code)
        )


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the mutant, and no bytecode that was compiled before."""

    def __init__(self, name: str, path: str, code: str) -> None:
        super().__init__(name, path)
        self._code = code

    @override
    def get_code(self, fullname: str) -> CodeType:
        return compile(self._code, self.path, "exec")
