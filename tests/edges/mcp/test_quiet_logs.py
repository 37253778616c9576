"""What people and agents say is in no log, however much it is told to tell."""

import logging
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.connect import LINKS, Link, call, connect, open_edge, text_of
from tests.support.peers.openai import OpenAIPeer

OF_THE_CLIENT = ("httpx2", "httpcore2", "mcp.client", "client")  # the test's own, which tells all that it gets


@pytest.mark.parametrize("link", LINKS)
async def test_what_is_said_is_in_no_log(link: Link, edge_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    canary = f"canary{uuid4().hex}"
    async with open_edge(edge_home, OpenAIPeer()) as edge, connect(edge.server, link) as client:
        said = await call(client, "chat", agent="droid", message=f"[[echo]] {canary}")
        assert canary in text_of(said)
    logged = [vars(record) for record in caplog.records if not record.name.startswith(OF_THE_CLIENT)]
    assert logged
    assert [each["name"] for each in logged if canary in str(each)] == []
