"""The files of the schema: each number once, none left out; the result equals the dump that is committed with them."""

import re
from pathlib import Path

import pytest

from agentapi_mcp.base.errors import StoreMismatchError
from agentapi_mcp.stores.postgres.legacy_schema import SHARED
from agentapi_mcp.stores.postgres.migrate import migrate
from agentapi_mcp.stores.postgres.schema_files import FOLDER, migrations, read_migrations
from tests.conftest import DatabaseUrls
from tests.support.databases import Template
from tests.support.schema_dump import DUMP, OBJECTS, existing_objects, objects_of, objects_text, schema_dump
from tests.support.supabase import Project

HEADER = "-- needs: 0.1.0\nSELECT 1;\n"


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("0002_b.sql", "0001_c.sql", "0003_a.sql"):
        (tmp_path / name).write_text(HEADER)
    (tmp_path / "0001_objects.json").write_text("{}")
    assert [migration.id for migration in read_migrations(tmp_path)] == ["0001_c", "0002_b", "0003_a"]
    assert read_migrations(tmp_path)[0].needs == "0.1.0"


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        pytest.param(
            ["0001_schema.sql", "0001_turns.sql"], "0001_turns.sql must have the number 0002", id="used twice"
        ),
        pytest.param(["0001_schema.sql", "0003_turns.sql"], "0003_turns.sql must have the number 0002", id="left out"),
        pytest.param(["0002_schema.sql"], "0002_schema.sql must have the number 0001", id="not the first"),
        pytest.param(["0001_schema.sql", "2_turns.sql"], "2_turns.sql must have the number 0002", id="short"),
        pytest.param(["0001.sql"], "0001.sql must have the number 0001, as in 0001_name.sql", id="no name"),
    ],
)
def test_a_number_that_is_used_twice_or_left_out_is_refused(tmp_path: Path, names: list[str], refused: str) -> None:
    for name in names:
        (tmp_path / name).write_text(HEADER)
    with pytest.raises(StoreMismatchError, match=re.escape(refused)):
        read_migrations(tmp_path)


def test_a_file_that_does_not_say_which_program_it_needs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_schema.sql").write_text("SELECT 1;\n")
    with pytest.raises(StoreMismatchError, match=r"0001_schema\.sql lacks its first line"):
        read_migrations(tmp_path)


def test_the_shipped_files_are_well_numbered() -> None:
    assert next(iter(read_migrations(FOLDER))).id == "0001_schema"


async def test_the_schema_equals_its_committed_dump(
    database_urls: DatabaseUrls, given_url: str | None, postgres_bin: Path | None
) -> None:
    if given_url is not None or postgres_bin is not None:
        pytest.skip("the dump is of the embedded Postgres 18, and is compared there")
    assert schema_dump(database_urls.owner) == DUMP.read_text(), "run `make schema`, and look at what it changes"


async def test_the_objects_of_the_first_file_equal_the_committed_ones(
    template: Template, deployed: Project, given_url: str | None, postgres_bin: Path | None
) -> None:
    if given_url is not None or postgres_bin is not None:
        pytest.skip("the list is of the embedded Postgres 18, and is compared there")
    async with template.copied("template0") as empty:
        await migrate(empty.owner, program="0.1.0", files=migrations()[:1])
        own = await objects_of(empty.owner, SHARED)
    await migrate(deployed.owner, program="0.1.0", files=migrations()[:1])
    existing = await existing_objects(deployed.admin, own)
    assert objects_text(own, existing) == OBJECTS.read_text(), "run `make schema`, and look at what it changes"
