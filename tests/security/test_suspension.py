"""Who is removed or suspended loses streams, tokens and running turns, over HTTP too; what was said is kept."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from mcp.shared.exceptions import MCPError

from agentapi_mcp.core.audit.models import AuditAction, AuditFilter
from agentapi_mcp.core.identity.principals import Role
from tests.conftest import DatabaseUrls
from tests.security.test_streams import ACCEPTS, LISTEN, opened
from tests.support.connect import call, fields_of
from tests.support.suspensions import COLUMNS, WAYS, end_membership, run_as_owner
from tests.support.tenants import Tenants, tenants

WORDS = {
    "removed": ("no longer a member", "no member here"),
    "suspended": ("suspended",),
    "organization_deleted": ("was deleted",),
}
RESTORED = (
    "INSERT INTO public.organization_members (user_id, organization_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
    "UPDATE public.organization_members SET is_deleted = false WHERE user_id = $1 AND organization_id = $2",
    "UPDATE public.profiles SET status = 'active', is_deleted = false WHERE id = $1 AND $2::uuid IS NOT NULL",
)


@asynccontextmanager
async def open_tenants(urls: DatabaseUrls, home: Path, place: Path) -> AsyncGenerator[Tenants]:
    """Open the server on a database whose application has columns of its own."""
    await run_as_owner(urls.owner, COLUMNS)
    async with tenants(home, place, urls=urls) as here:
        yield here


async def until(url: str, condition: str, *given: object) -> None:
    """Wait until the database fulfils a condition."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET row_security = off")
        async with asyncio.timeout(25):
            while not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {condition})", *given):  # noqa: S608  # literals of the tests
                pass
    finally:
        await connection.close()


@pytest.mark.parametrize("way", WAYS)
async def test_streams_and_tokens_end_with_the_membership_whatever_ends_it(
    way: str, own_database: DatabaseUrls, edge_home: Path, tmp_path: Path
) -> None:
    async with open_tenants(own_database, edge_home, tmp_path) as here, here.http("bo") as http:
        bo = here.members["bo"]
        made = await here.services.personal_tokens.create(bo.principal, f"t{uuid4().hex}", scopes=["read"])
        stream = await http.send(await opened(here, http, "http-2026"), stream=True)
        lines = stream.aiter_lines()
        await anext(lines)
        await end_membership(own_database.owner, way, bo.user_id, bo.org_id)
        async for line in lines:  # to its polite end
            assert "error" not in line
        refusals = [await http.post(here.place.mcp, json=LISTEN, headers=ACCEPTS)]
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {made.secret}"}, timeout=25) as personal:
            refusals.append(await personal.post(here.place.mcp, json=LISTEN, headers=ACCEPTS))
        for refused in refusals:
            assert refused.status_code == 403
            assert any(words in refused.text for words in WORDS[WAYS[way][1]]), refused.text
        # Where the organisation's administrators look.
        await until(
            own_database.owner,
            "agentapi.audit_events WHERE action = 'sign_in_refused' AND user_id = $1 AND org_id = $2",
            bo.user_id,
            bo.org_id,
        )


@pytest.mark.parametrize("way", WAYS)
async def test_a_running_turn_ends_with_the_membership_and_a_colleagues_goes_on(
    way: str, own_database: DatabaseUrls, edge_home: Path, tmp_path: Path
) -> None:
    async with (
        open_tenants(own_database, edge_home, tmp_path) as here,
        here.client("bo", "http-2026") as bos,
        here.client("bea", "http-2026") as beas,
    ):
        bo = here.members["bo"]

        async def begin(client: Any) -> str:  # noqa: ANN401  # the SDK's
            begun = fields_of(await call(client, "chat", agent="droid", message="[[waits]]", wait_seconds=0))
            assert begun["status"] == "running"
            return str(begun["turn_id"])

        mine, hers = await begin(bos), await begin(beas)
        await until(own_database.owner, "agentapi.turns WHERE id = $1::uuid AND partial_text <> ''", mine)
        await end_membership(own_database.owner, way, bo.user_id, bo.org_id)
        ended = "agentapi.turns WHERE id = $1::uuid AND status = 'cancelled' AND end_reason = 'access_revoked'"
        await until(own_database.owner, ended, mine)
        stopped = "agentapi.audit_events WHERE action = 'turn_stopped' AND target_id = $1 AND details ->> 'reason' = $2"
        await until(own_database.owner, f"{stopped} AND user_id = $3", mine, str(WAYS[way][1]), bo.user_id)
        if way == "organisation deleted":
            await until(own_database.owner, ended, hers)
            return
        shown = fields_of(await call(beas, "get_turn", turn_id=hers, wait_seconds=0))
        assert shown["status"] == "running"
        # Who comes back finds what was said.
        for back in RESTORED:
            await run_as_owner(own_database.owner, back, bo.user_id, bo.org_id)
        kept = fields_of(await call(bos, "get_turn", turn_id=mine))
        assert (kept["status"], kept["end_reason"], kept["reply"]) == ("cancelled", "access_revoked", "w0 ")
        await call(beas, "cancel_turn", turn_id=hers)


async def test_the_command_that_removes_a_member_ends_their_turn(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("bo", "http-2026") as bos:
        begun = fields_of(await call(bos, "chat", agent="droid", message="[[waits]]", wait_seconds=0))
        bea, bo = here.members["bea"].principal, here.members["bo"]
        await here.services.memberships.remove(bea, str(bo.user_id))
        await until(here.owner_url, "agentapi.turns WHERE id = $1::uuid AND status <> 'running'", str(begun["turn_id"]))
        with pytest.raises(MCPError, match="no member here"):
            await call(bos, "get_turn", turn_id=begun["turn_id"])
        stopped = AuditFilter(action=AuditAction.TURN_STOPPED)
        (event,) = (await here.services.audit.list_(bea, stopped)).items
        assert (event.target, event.details) == (("turn", begun["turn_id"]), {"reason": "removed"})


async def test_a_turn_of_who_becomes_a_viewer_goes_on_and_they_begin_no_other(edge_home: Path, tmp_path: Path) -> None:
    async with tenants(edge_home, tmp_path) as here, here.client("bo", "http-2026") as bos:
        begun = fields_of(await call(bos, "chat", agent="droid", message="[[waits]]", wait_seconds=0))
        bea, bo = here.members["bea"].principal, here.members["bo"]
        await here.services.memberships.set_role(bea, str(bo.user_id), Role.VIEWER)
        refused = await call(bos, "chat", agent="droid", message="another")
        assert refused.is_error
        removed = here.members["abe"]
        async with here.client("abe", "http-2026") as abes:
            other = fields_of(await call(abes, "chat", agent="droid", message="[[waits]]", wait_seconds=0))
            async with here.database.as_system("test") as connection:
                await connection.execute("DELETE FROM public.organization_members WHERE user_id = $1", removed.user_id)
            # The same look at members that ends the turn of one who was removed sees the viewer's.
            ended = "agentapi.turns WHERE id = $1::uuid AND end_reason = 'access_revoked'"
            await until(here.owner_url, ended, str(other["turn_id"]))
        shown = fields_of(await call(bos, "get_turn", turn_id=begun["turn_id"], wait_seconds=0))
        assert shown["status"] == "running"
