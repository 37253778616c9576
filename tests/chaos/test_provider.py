"""The provider of the chaos harness: what it says, and what it writes down of it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from chaos.evidence import Asked, marked, read_log
from chaos.provider import listening


@dataclass(frozen=True)
class Provider:
    """The provider, and its log."""

    url: str
    log: Path

    def body(self, message: str) -> dict[str, object]:
        """Write a request."""
        return {"model": "stub", "stream": True, "messages": [{"role": "user", "content": message}]}

    def lines(self) -> list[dict[str, str]]:
        """Read its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    async def wrote(self, what: str) -> dict[str, str]:
        """Wait until it has written down an event."""
        while True:
            for line in self.lines():
                if line["what"] == what:
                    return line
            await asyncio.sleep(0)  # noqa: TID251  # one step of the loop, in which the provider lives too


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncGenerator[Provider]:
    log = tmp_path / "provider.jsonl"
    async with listening(0, log) as server:
        yield Provider(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions", log)


async def test_an_answer_repeats_the_marker_and_is_written_down_whole(provider: Provider) -> None:
    async with httpx2.AsyncClient() as http:
        headers = {"authorization": "Bearer replica-1.2"}
        response = await http.post(provider.url, json=provider.body(marked("ab12", "[[pieces=2]] hi")), headers=headers)
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    choices = [choice for line in data[:-1] for choice in json.loads(line)["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert (text, choices[-1]["finish_reason"]) == ("ECHO:ab12 w0 w1 ", "stop")
    (asked,) = read_log(provider.log)
    assert asked == Asked(
        request=asked.request, marker="ab12", process="replica-1.2", at=asked.at, ended_at=asked.ended_at, text=text
    )
    assert asked.ended_at is not None


async def test_a_client_that_leaves_is_written_down(provider: Provider) -> None:
    body = provider.body(marked("cd", "[[pieces=1000 pace=1]]"))
    async with httpx2.AsyncClient() as http, http.stream("POST", provider.url, json=body) as response:
        async for _ in response.aiter_bytes():
            break
    assert (await provider.wrote("gone"))["request"] == provider.lines()[0]["request"]
    assert [asked.ended_at for asked in read_log(provider.log)] == [None]


@pytest.mark.parametrize("word", ["cut", "lie", "status=500", "nonsense", "empty"])
async def test_what_the_script_breaks_is_no_answer(provider: Provider, word: str) -> None:
    async with httpx2.AsyncClient() as http:
        try:
            response = await http.post(provider.url, json=provider.body(marked("ef", f"[[{word}]]")))
        except httpx2.RemoteProtocolError:
            assert word == "cut"
        else:
            assert "[DONE]" not in response.text
    assert (await provider.wrote("failed"))["request"] == provider.lines()[0]["request"]
    assert [asked.text for asked in read_log(provider.log)] == [None]
