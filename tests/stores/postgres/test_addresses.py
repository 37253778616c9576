"""An address that leads to no usable database is answered with what is wrong and what to do, not with a riddle."""

import asyncio
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, StoreUnavailableError
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.settings import VERSION
from agentapi_mcp.stores.postgres.database import PoolOptions, RemoteServer, open_database
from agentapi_mcp.stores.postgres.migrate import migrate, status
from tests.conftest import DatabaseUrls


async def connection_error(url: str, variable: str | None = None) -> AgentApiError:
    """Return the error for an address, which must be the same from a command and from a server."""
    with pytest.raises(AgentApiError) as by_command:
        await status(url, variable)
    with pytest.raises(AgentApiError) as by_server:
        async with open_database(RemoteServer(url), PoolOptions(variable=variable)):
            pass
    assert str(by_command.value) == str(by_server.value)
    assert notes_of(by_command.value) == notes_of(by_server.value)
    return by_command.value


@pytest.mark.parametrize(
    "url",
    [
        "foo",
        "mysql://a/b",
        "http://127.0.0.1:5432/x",
        "postgresql://u:p@h:port/x",
        "postgresql://u:p@127.0.0.1:99999/x",
        "postgresql://u:p@127.0.0.1:0/x",
        "postgresql://u:p@127.0.0.1:9,127.0.0.1:99999/x",
        "postgresql://u:p@127.0.0.1:9,,127.0.0.1:9/x",
        "postgresql://u:p@/x?host=127.0.0.1&port=65536",
        "postgresql://u:p@/x?host=127.0.0.1,127.0.0.1&port=9,-1",
        "postgresql://u:p@127.0.0.1:9/x?port=x",
        "postgresql://u:p@127.0.0.1:9/x?sslmode=sometimes",
        "postgresql://u:p@127.0.0.1:9/x?nonsense",
    ],
)
async def test_what_is_no_address_shows_what_one_looks_like(url: str) -> None:
    error = await connection_error(url)
    assert isinstance(error, ConfigurationError)
    assert "postgresql://USER:PASSWORD@HOST:5432/DATABASE" in str(error)


HIDDEN = "S3cr3tPw"
PLACES = (
    "@127.0.0.1:9/x",
    "@127.0.0.1:9,127.0.0.1:10/x",
    "@/x?host=/nowhere",
    "@/x?host=127.0.0.1,127.0.0.1&port=9,10",
)
OPTIONS = """
application_name command_timeout connect_timeout database dbname foo gsslib host krbsrvname options passfile
password port service sslcert sslcrl sslkey sslmode sslnegotiation sslpassword sslrootcert
ssl_max_protocol_version ssl_min_protocol_version statement_cache_size target_session_attrs user work_mem
"""
VALUES = (
    "",
    "0",
    "9",
    "-1",
    "99999",
    "x",
    "/nowhere",
    "127.0.0.1",
    "a,b",
    ",",
    "require",
    "TLSv1.2",
    "%00",
    "%zz",
    HIDDEN,
)


@settings(deadline=timedelta(seconds=20), max_examples=150)
@given(
    place=st.sampled_from(PLACES),
    options=st.lists(st.tuples(st.sampled_from(OPTIONS.split()), st.sampled_from(VALUES)), max_size=2),
    more=st.sampled_from(["", "", "", "&", "&x", "&=", "#x"]),
)
@example(place=PLACES[0], options=[("port", "99999")], more="")
@example(place=PLACES[1], options=[("sslrootcert", "/nowhere"), ("sslmode", "require")], more="")
async def test_each_address_is_refused_at_the_start_or_that_of_a_server_that_is_away(
    place: str, options: list[tuple[str, str]], more: str
) -> None:
    query = "&".join(f"{name}={value}" for name, value in options) + more
    url = f"postgresql://u:{HIDDEN}{place}" + (f"{'&' if '?' in place else '?'}{query}" if query else "")
    with pytest.raises(AgentApiError) as caught:
        async with open_database(RemoteServer(url), PoolOptions(acquire_timeout=timedelta(seconds=9))):
            pass
    assert isinstance(caught.value, ConfigurationError | StoreUnavailableError)
    assert HIDDEN not in "".join([str(caught.value), *notes_of(caught.value)])


@pytest.mark.parametrize("name", ["sslcert", "sslcrl", "sslkey", "sslrootcert"])
@pytest.mark.parametrize("path", ["/nowhere", "/"])
async def test_a_file_that_is_not_there_is_told_from_a_server_that_is_not(name: str, path: str) -> None:
    error = await connection_error(f"postgresql://u:p@127.0.0.1:9/x?{name}={path}")
    assert isinstance(error, ConfigurationError)
    assert f"AGENTAPI_DATABASE_URL names a file in its {name} that is not there" in str(error)


@pytest.mark.parametrize("option", ["work_mem=S3cr3tPw", "statement_timeout=-2", "role=S3cr3tPw", "options=S3cr3tPw"])
async def test_a_value_that_the_server_refuses_is_told_and_not_repeated(
    option: str, own_database: DatabaseUrls
) -> None:
    error = await connection_error(f"{own_database.app}{'&' if '?' in own_database.app else '?'}{option}")
    assert isinstance(error, ConfigurationError)
    assert "a parameter after its `?` with a value that the server refuses" in str(error)
    assert HIDDEN not in str(error)


@pytest.mark.parametrize("url", ["postgresql://u:p@nobody.invalid/x", "postgresql://u:p@ss/w#rd@127.0.0.1/x"])
async def test_a_host_that_is_not_known_may_be_a_part_of_the_password(url: str) -> None:
    error = await connection_error(url)
    assert isinstance(error, StoreUnavailableError)
    assert "its host is not known" in str(error)
    assert "percent-encoded" in str(error)


async def test_nobody_listens() -> None:
    assert "nothing answers at its address" in str(await connection_error("postgresql://u:p@127.0.0.1:9/x"))


async def test_the_variable_that_was_set_is_named_and_its_address_noted_for_the_operator_alone() -> None:
    away = await connection_error("postgresql://u:secret@127.0.0.1:9/x", "DATABASE_URL")
    assert notes_of(away) == ("DATABASE_URL names 127.0.0.1:9.",)
    assert "127.0.0.1" not in str(away)
    unknown = await connection_error("postgresql://u:secret@nobody.invalid/x", "AGENTAPI_MIGRATE_DATABASE_URL")
    assert "Check AGENTAPI_MIGRATE_DATABASE_URL." in str(unknown)
    assert notes_of(unknown) == ("AGENTAPI_MIGRATE_DATABASE_URL names nobody.invalid:5432.",)
    assert str(await connection_error("nonsense", "DATABASE_URL")).startswith(
        "DATABASE_URL is no address of a Postgres"
    )


async def test_a_host_that_may_be_a_part_of_the_password_is_not_noted() -> None:
    assert notes_of(await connection_error("postgresql://u:p@ss/w#rd@127.0.0.1/x", "DATABASE_URL")) == ()


async def test_another_database_or_login(database_urls: DatabaseUrls) -> None:
    parts = urlsplit(database_urls.app)
    other_database = urlunsplit(parts._replace(path="/not_there"))
    assert "no database of this name" in str(await connection_error(other_database))
    other_login = urlunsplit(parts._replace(netloc=f"not_there:wrong@{parts.netloc.rpartition('@')[2]}"))
    assert "refuses the user or the password" in str(await connection_error(other_login))


async def test_a_server_without_tls() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(
            8
        )  # SSLRequest (https://www.postgresql.org/docs/current/protocol-message-formats.html)
        writer.write(b"N")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "does not speak TLS" in str(
            await connection_error(f"postgresql://u:p@127.0.0.1:{port}/x?sslmode=require")
        )


async def test_a_parameter_of_another_driver_is_named(database_urls: DatabaseUrls) -> None:
    parts = urlsplit(database_urls.app)
    query = "&".join(part for part in (parts.query, "pgbouncer=true") if part)
    error = await connection_error(urlunsplit(parts._replace(query=query)))
    assert isinstance(error, ConfigurationError)
    assert 'parameter "pgbouncer". Remove it.' in str(error)


async def test_a_database_that_accepts_no_writes_says_so(own_database: DatabaseUrls) -> None:
    connection = await asyncpg.connect(own_database.owner)
    await connection.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); "
        "END $$"
    )
    await connection.close()
    with pytest.raises(StoreUnavailableError, match="it is read-only"):
        await migrate(own_database.owner, program=VERSION)
