"""A session is named on the command line by the beginning or the end of its id, and by nothing else."""

from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from agentapi_mcp.base.errors import CallerError
from agentapi_mcp.cli.found_sessions import find_session, session_ids
from tests.support.connect import call, connect, fields_of, open_edge
from tests.support.hostile import TEXTS, holds
from tests.support.peers.openai import OpenAIPeer


async def test_any_text_names_one_session_or_is_refused(edge_home: Path) -> None:
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, "stdio-2026") as client:
        begun = [fields_of(await call(client, "chat", agent="droid", message=edge.tag)) for _ in range(2)]
        read = partial(session_ids, edge.services)
        ids = [str(turn["session_id"]) for turn in begun]
        cuts = st.tuples(st.sampled_from(ids), st.integers(1, 36))
        parts = cuts.map(lambda cut: cut[0][-cut[1] :]) | cuts.map(lambda cut: cut[0][: cut[1]].upper())

        async def check(text: str) -> None:
            try:
                found = await find_session(read, text)
            except CallerError:
                return
            if len(text) < 36:
                assert found.startswith(text.lower()) or found.endswith(text.lower())

        await holds(TEXTS | parts, check, examples=60, also=["%%%%%%", "______", "\0" * 6, "\ud800" * 6, "x" * 9999])
        assert await find_session(read, ids[0][-10:].upper()) == ids[0]
