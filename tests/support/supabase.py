"""Databases that look like an organisation's Supabase project, with or without the AgentAPI tables as deployed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg

OWNER = "supabase_owner"
APP = "supabase_app"
ALICE = UUID("6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01")
BOB = UUID("0c9be6a4-31cf-4d86-9a55-3b1f0a9c6e02")
ACME = UUID("b51b7f0e-2f0d-4d0c-9a3f-7c2f3a2f9b10")
OLD_SESSION = UUID("d4f7a1b2-0c3e-4d5f-8a6b-7c8d9e0f1a31")
BARE_SESSION = UUID("14c0ffee-8d2a-4b7c-9e1f-2a3b4c5d6e32")
BOBS_SESSION = UUID("77e6d5c4-b3a2-4190-8f7e-6d5c4b3a2133")

_PROJECT = Path(__file__).with_name("supabase.sql")
_DEPLOYED = Path(__file__).with_name("deployed.sql")
_PASSWORD = "not-a-secret"  # noqa: S105  # of logins on a server of the tests
_LOGINS = {OWNER: "CREATEROLE CREATEDB INHERIT", APP: "NOINHERIT", "authenticator": "NOINHERIT"}
_ROLES = {"anon": "", "authenticated": "", "service_role": "BYPASSRLS", "supabase_auth_admin": "CREATEROLE"}


@dataclass(frozen=True)
class Project:
    """The addresses of one such database, for each login."""

    admin: str
    owner: str
    app: str

    async def run(self, sql: str, *, role: str | None = None) -> None:
        """Change it as the administrator, or as a role."""
        connection = await asyncpg.connect(self.admin)
        try:
            if role is not None:
                await connection.execute(f"SET ROLE {role}")
            await connection.execute(sql)
        finally:
            await connection.close()

    async def value(self, sql: str, *, user: UUID | None = None, role: str = "authenticated") -> object:
        """Read a value as PostgREST would for a user; without one, as the administrator."""
        connection = await asyncpg.connect(self.admin)
        try:
            if user is not None:
                await connection.execute(f"SET ROLE {role}")
                claims = f'{{"sub": "{user}", "role": "{role}"}}'
                await connection.execute("SELECT set_config('request.jwt.claims', $1, false)", claims)
            return cast("object", await connection.fetchval(sql))
        finally:
            await connection.close()


def address(server: str, *, database: str, login: str | None = None) -> str:
    """Return the address of another database on a server, for another login."""
    parts = urlsplit(server)
    host = parts.netloc.rpartition("@")[2]
    who = parts.netloc.rpartition("@")[0] if login is None else f"{login}:{_PASSWORD}"
    return urlunsplit(parts._replace(netloc=f"{who}@{host}", path=f"/{database}"))


async def make_roles(server: str) -> None:
    """Make the roles that every Supabase project has, the owner of its tables, and a login for the program."""
    admin = await asyncpg.connect(server)
    try:
        have = {row["rolname"] for row in await admin.fetch("SELECT rolname FROM pg_roles")}
        for name in {*_ROLES, *_LOGINS} - have:
            await admin.execute(f"CREATE ROLE {name}")
        for name, options in _ROLES.items():
            await admin.execute(f"ALTER ROLE {name} NOLOGIN NOINHERIT {options}")
        for name, options in _LOGINS.items():
            await admin.execute(f"ALTER ROLE {name} LOGIN PASSWORD '{_PASSWORD}' {options}")
        await admin.execute(f"GRANT anon, authenticated, service_role TO {OWNER} WITH ADMIN OPTION")
        await admin.execute("GRANT anon, authenticated, service_role TO authenticator")
    finally:
        await admin.close()


async def make_login(admin: "asyncpg.Connection[asyncpg.Record]", name: str, options: str) -> None:
    """Make a login with the password that `address` puts into URLs."""
    await admin.execute(f"CREATE ROLE {name} LOGIN {options} PASSWORD '{_PASSWORD}'")


@asynccontextmanager
async def make_template(server: str, *, deployed: bool) -> AsyncGenerator[str]:
    """Make a database that others are copied from, and return its name."""
    async with _created(server, "") as name:
        connection = await asyncpg.connect(address(server, database=name))
        try:
            await connection.execute(_PROJECT.read_text())
            if deployed:
                await connection.execute(_DEPLOYED.read_text())
        finally:
            await connection.close()
        yield name


@asynccontextmanager
async def make_restored(server: str, dump: Path) -> AsyncGenerator[str]:
    """Make a database from a dump of one that the program made, to be copied, and return its name."""
    sql = await asyncio.to_thread(dump.read_text, encoding="utf-8")
    sql = sql.replace("agentapi_owner", OWNER).replace(",MAINTAIN", "")  # which Postgres 16 does not know
    async with _program_roles(server), _created(server, "") as name:
        connection = await asyncpg.connect(address(server, database=name))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()
        yield name


@asynccontextmanager
async def _program_roles(server: str) -> AsyncGenerator[None]:
    admin = await asyncpg.connect(server)
    try:
        have = {row["rolname"] for row in await admin.fetch("SELECT rolname FROM pg_roles")}
        made = sorted({"agentapi_system", "agentapi_writer"} - have)
        for name in made:
            await admin.execute(f"SET ROLE {OWNER}; CREATE ROLE {name} NOLOGIN NOINHERIT; RESET ROLE")
        yield
        for name in made:
            await admin.execute(f"DROP ROLE {name}")
    finally:
        await admin.close()


@asynccontextmanager
async def copied(server: str, template: str) -> AsyncGenerator[Project]:
    """Copy a template for one test; the program's own role goes with the copy, where no other database has it."""
    async with _created(server, f"TEMPLATE {template}") as name:
        yield Project(
            admin=address(server, database=name),
            owner=address(server, database=name, login=OWNER),
            app=address(server, database=name, login=APP),
        )
    admin = await asyncpg.connect(server)
    try:
        # From Postgres 16 on a membership is taken back by the role that gave it.
        await admin.execute(f"SET ROLE {OWNER}; REVOKE authenticated FROM {APP}; RESET ROLE")
        await admin.execute("DROP ROLE IF EXISTS agentapi_system, agentapi_writer")
    except asyncpg.DependentObjectsStillExistError:
        await admin.execute(f"REVOKE agentapi_system, agentapi_writer FROM {APP}, {OWNER} CASCADE")
    finally:
        await admin.close()


@asynccontextmanager
async def _created(server: str, options: str) -> AsyncGenerator[str]:
    name = f"supabase_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f"CREATE DATABASE {name} OWNER {OWNER} {options}")
        yield name
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()
