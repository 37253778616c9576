"""Every SQL statement of the package is prepared on the migrated schema: a misspelt column fails here."""

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import asyncpg
import pytest

import agentapi_mcp
from agentapi_mcp.stores.postgres.schema_files import migrations
from tests.conftest import DatabaseUrls
from tests.support.statements import SqlCall, package_calls, sql_calls

PREPARABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
LOCK = "LOCK TABLE"  # no statement that can be prepared, but one that can be tried
UNPREPARED = {  # each call whose SQL is neither, and why; of another library's method with such a name, what it is
    "Connection.fetch(sql)": "passes on the SQL of its caller",
    "Connection.fetchrow(sql)": "passes on the SQL of its caller",
    "Connection.fetchval(sql)": "passes on the SQL of its caller",
    "Connection.execute(sql)": "passes on the SQL of its caller",
    "Database._call(sql)": "passes on the SQL of its caller",
    "Database._transaction('COMMIT')": "names no table",
    "Database._undo('ROLLBACK')": "names no table",
    "Database._begin(begin)": "sets the role and the claims, known at run time; every test of a store runs it",
    "PostgresUsage.sums(sql)": "is put together by group and part; the tests of usage run each of them",
    "read_objects('SET LOCAL search_path = pg_catalog')": "sets a parameter; every comparison of a schema runs it",
    "_complete(_ADD)": "adds columns by DO; every first migration runs it",
    "_complete(_UNIQUE)": "makes an index by DO; the test of a platform of another design runs it",
    "_refusal(sql)": "tries checks of the migrations; every first migration runs it",
    "remember(_SERVE)": "makes policies by DO; every first migration runs it",
    "_grant(_GRANT)": "grants columns by DO; every first migration runs it",
    "begin_migration(_BOUNDS)": "sets parameters; every migration runs it",
    "begin_migration(_LOCK)": "locks the table of migrations where it is there already; every migration runs it",
    "_run(_LOCK)": "the same, after the table is made",
    "_run(_BOOTSTRAP)": "makes the table of migrations; every migration runs it",
    "_grant_roles(_GRANT)": "grants to a login by DO; every migration of an embedded database runs it",
    "_run(_GRANT_FUNCTIONS)": "grants to logins by DO; every migration runs it",
    "_apply(migration.sql)": "is a migration, which the database of this test has been through",
    "Snapshot.count(f'SELECT count(*) FROM ({table.query}) AS t')": "counts a table of the catalogue, as every backup",
    "Snapshot.copy(table.query)": "reads a table of the catalogue; every backup runs it",
    "open_snapshot(_COPY_SETTINGS)": "sets parameters; every backup runs it",
    "open_snapshot(f'{_SHORT_WAIT}; LOCK TABLE {names} IN SHARE MODE')": "locks the tables; every move runs it",
    "load(_COPY_SETTINGS)": "the same; every restore runs it",
    "find_contents(_COPY_SETTINGS)": "the same; every restore runs it",
    "find_contents(f'SELECT count(*) FROM ({table.query}) AS t')": "counts a table of the catalogue; the same",
    "_remove(_REMOVE)": "drops the tables by DO; every restore into a database that has some runs it",
    "_switch_triggers(_TRIGGERS)": "alters tables by DO; every restore runs it",
    "_load_table(table.relation)": "fills a table of the catalogue; every restore runs it",
    "_is_run_by(sql)": "has a process id in its text, since it may not be prepared; the tests of poolers run it",
    "GatheredWrites._send.send(False)": "sends a pipeline of Redis",
    "TurnRunner._run: self._work.prepare": "prepares a turn",
    "EmbeddedPostgres.ensure(account)": "prepares a directory",
    "_read_transcript: reference.cursor": "is where a page begins",
    "refuse_cursor: params.cursor": "is where a page begins",
}
CALLS = package_calls(agentapi_mcp)
STATEMENTS = [
    pytest.param(call.place, sql, id=f"{call.place}-{number}")
    for call in CALLS
    if call.name not in UNPREPARED
    for number, sql in enumerate(call.texts)
]


def is_understood(call: SqlCall) -> bool:
    """Tell whether everything that a call can send is a statement that a test can try."""
    return bool(call.texts) and all(sql.lstrip().startswith((*PREPARABLE, LOCK)) for sql in call.texts)


def calls_in(source: str, folder: Path) -> list[SqlCall]:
    """Read the calls of a module with this source."""
    path = folder / "sample.py"
    path.write_text(source, encoding="utf-8")
    spec = spec_from_file_location("sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(sql_calls(module, ast.parse(source)))


async def complaint_of(sql: str, connection: "asyncpg.Connection[asyncpg.Record]") -> str | None:
    """Return what the database has against a statement."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await (connection.execute(sql) if sql.startswith(LOCK) else connection.prepare(sql))
    except asyncpg.PostgresError as fault:
        return str(fault)
    finally:
        await transaction.rollback()
    return None


@pytest.mark.parametrize(("place", "sql"), STATEMENTS)
async def test_a_statement_fits_the_schema(place: str, sql: str, database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        assert await complaint_of(sql, owner) is None, place
    finally:
        await owner.close()


@pytest.mark.parametrize("sql", ["SELECT missing FROM agentapi.turns", "LOCK TABLE agentapi.missing IN SHARE MODE"])
async def test_a_statement_that_does_not_fit_is_refused(sql: str, database_urls: DatabaseUrls) -> None:
    owner = await asyncpg.connect(database_urls.owner)
    try:
        assert "missing" in str(await complaint_of(sql, owner))
    finally:
        await owner.close()


def test_every_statement_can_be_read_or_is_listed_with_a_reason() -> None:
    unread = [f"{call.place}: {call.name}" for call in CALLS if not is_understood(call)]
    listed = [f"{call.place}: {call.name}" for call in CALLS if call.name in UNPREPARED]
    assert unread == listed


def test_no_statement_takes_a_lock_that_any_login_can_hold() -> None:
    taken = [call.place for call in CALLS for sql in call.texts if re.search(r"pg_(try_)?advisory", sql)]
    assert taken == [], "lock a row or a table of the schema agentapi, to which no outside role has a right"
    assert not any(re.search(r"pg_(try_)?advisory", migration.sql) for migration in migrations())


def test_signals_alone_notify() -> None:
    notifying = {call.name for call in CALLS for sql in call.texts if "pg_notify" in sql or ".tell_" in sql}
    assert notifying == {"tell(_TELL)"}  # and `PostgresSignals.flush`, by the function of the same constant


def test_the_list_of_the_unprepared_names_only_calls_that_are_there() -> None:
    assert set(UNPREPARED) - {call.name for call in CALLS} == set()


def test_the_statements_are_found() -> None:
    assert len(STATEMENTS) >= 165


SENDS = "async def send(connection, table, key, *sqls):\n"


@pytest.mark.parametrize(
    "line",
    [
        "    await connection.fetch(f'SELECT 1 FROM {table}')",
        "    await connection.fetch(table)",
        "    await connection.fetch(SELECT + table)",
        "    await connection.fetch(MIXED[key])",
        "    await connection.fetch(missing)",
        "    await connection.fetch(SELECT.lower())",
        "    await connection.fetch(SELECT if key else table)",
        "    await connection.execute(query=table)",
        "    await connection.execute(*sqls)",
        "    SELECT = table\n    await connection.fetch(SELECT)",
        "    sql = 'SELECT 1'\n    sql = sql + table\n    await connection.fetch(sql)",
        "    sql = 'SELECT 1'\n    sql += table\n    await connection.fetch(sql)",
        "    for sql in sqls:\n        await connection.fetch(sql)",
        "    await connection.execute('VACUUM')",
        "    fetch = connection.fetchval\n    await fetch('SELECT 1')",
        "    await table(connection.fetch)",
        "    await connection.prepare('SELECT 1')",
        "    prepare = connection.prepare",
        "    await connection.copy_from_query('SELECT 1', output=key)",
        "    await connection.copy_records_to_table('turns', records=key)",
        "    await connection.copy_to_table(table_name='turns', source=key)",
    ],
)
def test_a_statement_that_cannot_be_read_is_refused(line: str, tmp_path: Path) -> None:
    constants = "SELECT = 'SELECT 1'\nMIXED = {1: 'SELECT 1', 2: 3}\n"
    assert [is_understood(call) for call in calls_in(f"{constants}{SENDS}{line}\n", tmp_path)] == [False]


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("    await connection.fetch('SELECT 1')", ["SELECT 1"]),
        ("    await connection.fetch(FORMATTED)", ["SELECT 1 + 2"]),
        ("    await connection.fetch(FORMATTED + ' + 3')", ["SELECT 1 + 2 + 3"]),
        ("    await connection.fetch(BY_KEY[key] + ' + 3')", ["SELECT 1 + 3", "SELECT 2 + 3"]),
        ("    await connection.fetch(FORMATTED if key else 'SELECT 3')", ["SELECT 1 + 2", "SELECT 3"]),
        ("    sql = FORMATTED + ' + 3'\n    await connection.fetch(sql)", ["SELECT 1 + 2 + 3"]),
        ("    async def inner():\n        await connection.fetch(FORMATTED)", ["SELECT 1 + 2"]),
        ("    await connection.fetch(ast.__name__)", ["ast"]),
    ],
)
def test_constants_are_evaluated_and_each_of_their_values_is_read(line: str, texts: list[str], tmp_path: Path) -> None:
    constants = "import ast\nONE = 1\nFORMATTED = f'SELECT {ONE} + 2'\nBY_KEY = {1: 'SELECT 1', 2: 'SELECT 2'}\n"
    assert [list(call.texts) for call in calls_in(f"{constants}{SENDS}{line}\n", tmp_path)] == [texts]


def test_a_call_without_an_argument_sends_no_sql(tmp_path: Path) -> None:
    assert calls_in(f"{SENDS}    await connection.execute()\n", tmp_path) == []
