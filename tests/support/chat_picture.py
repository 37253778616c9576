"""A conversation with `chat` on a real terminal, as the picture in README shows it; `make picture` draws it anew."""

import asyncio
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange, HttpPeer
from tests.support.databases import Seed
from tests.support.screens import ScreenOfTerminal, svg
from tests.support.terminals import started_at_terminal

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "chat.svg"
_COLUMNS, _ROWS = 88, 60  # enough rows that nothing scrolls away
_FILE = """
use_defaults = false

[agents.demo]
backend = "openai"
description = "A stand-in for a model"
options = {{ base_url = "{base_url}", provider = "demo" }}

[[agents.demo.models]]
name = "stand-in"
model_id = "stand-in"
provider = "demo"
prices = {{ input = 0.5, output = 3, source = "example", on = 2026-11-29 }}
"""
_QUESTION = "Which words are the most frequent in a file? In Python, please."
_ANSWER = """\
`Counter` from the standard library does the **counting**:

```python
from collections import Counter
from pathlib import Path

words = Path("notes.txt").read_text().lower().split()
for word, times in Counter(words).most_common(3):
    print(f"{times:>5}  {word}")
```

1. `split()` cuts at any white space, so `end` and `end.` are two words.
2. To count them as one, take the words by a pattern: `re.findall(r"[a-z']+", text)`.

| Length of the file | Better |
|---|---|
| fits into memory | as above |
| many gigabytes | line by line, `counter.update(line.split())` |
"""


class StandIn(HttpPeer):
    """Speaks Chat Completions, and answers every question with the same text."""

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        if not exchange.path.endswith("/chat/completions"):
            await answer.json(200, {"object": "list", "data": [{"id": "stand-in", "object": "model"}]})
            return
        await answer.open_stream()
        for piece in re.findall(r"\s*\S+\s*", _ANSWER):
            await answer.write_chunk(_event([{"index": 0, "delta": {"content": piece}, "finish_reason": None}]))
        await answer.write_chunk(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        usage = {"prompt_tokens": 24, "completion_tokens": 212, "total_tokens": 236}
        await answer.write_chunk(_event([], usage=usage) + "data: [DONE]\n\n")
        await answer.close_stream()


def _event(choices: list[dict[str, object]], **fields: object) -> str:
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "stand-in"}
    return f"data: {json.dumps(event | {'choices': choices} | fields)}\n\n"


async def draw(home: Path) -> str:
    """Hold the conversation in a home of its own, and draw it."""
    async with StandIn() as peer:
        file = home.parent / "picture.toml"
        file.write_text(_FILE.format(base_url=f"{peer.origin}/v1"), encoding="utf-8")
        seen = await asyncio.to_thread(_hold, home, file)
    screen = ScreenOfTerminal(_COLUMNS)
    screen.feed("$ agentapi-mcp chat\r\n" + _masked(seen))
    shown = "A terminal. The question is typed at the prompt, which names the agent. The answer has a numbered list, a "
    shown += "table and Python in colours. Below it, one line says the time, the tokens and the cost of the answer."
    return svg(screen, title="A conversation with agentapi-mcp chat", description=shown)


def _hold(home: Path, file: Path) -> str:
    env = {
        "AGENTAPI_HOME": str(home),
        "AGENTAPI_CONFIG": str(file),
        "AGENTAPI_POSTGRES_LINGER_SECONDS": "0",
        "AGENTAPI_RESIDENT": "0",
        "PATH": os.defpath,
        "TERM": "xterm-256color",
    }
    with started_at_terminal(env, sys.executable, "-m", "agentapi_mcp", "chat", columns=_COLUMNS) as person:
        person.resize(_COLUMNS, _ROWS)
        person.until(" >")
        person.type(_QUESTION + "\r")
        person.until(" >", after=person.until("total "))
        end = len(person.seen)
        person.type("\x04")
        assert person.leave() == 0, person.seen
        return person.seen[:end]


def _masked(seen: str) -> str:
    """Replace what differs each time, the seconds of the answer and the end of its session's id."""
    return re.sub(r"session [0-9a-f]{8}", "session 5f0c7d1e", re.sub(r"\d+\.\d s ·", "0.8 s ·", seen))


async def _drawn_in(place: Path) -> str:
    async with Seed(place).started("picture-") as server:
        return await draw(server.home)


def main() -> None:
    """Draw the picture anew."""
    with tempfile.TemporaryDirectory(prefix="picture-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        PICTURE.write_text(asyncio.run(_drawn_in(Path(path))), encoding="utf-8")


if __name__ == "__main__":
    main()
