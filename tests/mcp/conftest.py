"""One home for all tests of the edge: its Postgres is started once; clients and servers are opened in the tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import SharedHome


@pytest.fixture(scope="session")
def edge_home() -> Iterator[Path]:
    """Return the home of the embedded Postgres, in a short directory that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="mcp-", dir="/tmp", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        shared = SharedHome(Path(path) / "home")
        yield shared.path
        shared.remove()
