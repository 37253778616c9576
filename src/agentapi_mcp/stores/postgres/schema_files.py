"""The shipped migrations: numbered SQL files; a release only adds to them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from agentapi_mcp.base.errors import StoreMismatchError

FOLDER = resources.files("agentapi_mcp.stores.postgres") / "schema"


@dataclass(frozen=True, slots=True)
class Migration:
    """A migration file; `needs` is the oldest program version that may use a migrated database."""

    id: str
    sql: str
    sha256: str
    needs: str

    @property
    def checks(self) -> str:
        """The first section of 0001_schema.sql, which changes nothing."""
        return self.sql.partition("\n-- 2. ")[0]


@cache
def migrations() -> tuple[Migration, ...]:
    """Read the shipped migrations, in order."""
    return read_migrations(FOLDER)


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Read the migrations of a folder, in order.

    Raises:
        StoreMismatchError: a number is duplicated or missing, or a file lacks its header.
    """
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    _check_numbers([file.name for file in files])
    return tuple(_read(file) for file in files)


def _check_numbers(names: Sequence[str]) -> None:
    # Git merges two branches that each add a file without conflict, so duplicate numbers must be found here.
    for expected, name in enumerate(names, start=1):
        if re.fullmatch(rf"{expected:04}_[a-z0-9_]+\.sql", name) is None:
            raise StoreMismatchError(
                f"The migration {name} must have the number {expected:04}, as in {expected:04}_name.sql: each number "
                "is used once, and none is left out."
            )


def _read(file: Traversable) -> Migration:
    sql = file.read_text(encoding="utf-8")
    needs = re.match(r"-- needs: (\d+\.\d+\.\d+)\n", sql)
    if needs is None:
        raise StoreMismatchError(
            f"The migration {file.name} lacks its first line, `-- needs: X.Y.Z`: the oldest program that may run on a "
            "database that has it."
        )
    return Migration(file.name.removesuffix(".sql"), sql, hashlib.sha256(sql.encode()).hexdigest(), needs[1])
