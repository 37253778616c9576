"""A real authorization server, `oidc-provider` from npm, as a process of its own; and a browser that signs in at it."""

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from mcp.shared.auth import AuthorizationCodeResult

from tests.support import npm_peers

REDIRECT = "http://127.0.0.1/callback"  # where the browser stops: nobody has to listen there
_OLDEST_NODE = 22
_PROGRAM = Path(npm_peers.__file__).parent / "npm_oidc" / "server.mjs"


@dataclass
class OidcProvider:
    """The server, and what a test may tell it."""

    issuer: str
    process: Process

    async def tell(self, **words: object) -> None:
        """Tell it something, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        assert await _read_line(self.process) == {"done": words}

    async def register(self, **metadata: object) -> dict[str, Any]:
        """Register a client (RFC 7591) that is more than the SDK's."""
        async with httpx2.AsyncClient() as http:
            answer = await http.post(f"{self.issuer}/reg", json=metadata)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def accepts(self, token: str) -> bool:
        """Return whether an access token with the scope `openid` is good."""
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http:
            return (await http.get(f"{self.issuer}/me")).is_success


@asynccontextmanager
async def oidc_provider() -> AsyncGenerator[OidcProvider]:
    """Run one with an empty memory."""
    modules = await asyncio.to_thread(npm_peers.installed, "npm_oidc")
    node = npm_peers.node_bin(_OLDEST_NODE) / "node"
    environment = npm_peers.node_environment(_OLDEST_NODE)
    process = await asyncio.create_subprocess_exec(
        str(node), str(_PROGRAM), str(modules), stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    try:
        yield OidcProvider(str((await _read_line(process))["issuer"]), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _read_line(process: Process) -> dict[str, object]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line, "the authorization server has ended"
    return json.loads(line)


@dataclass
class Browser:
    """Somebody before a browser: signs in under a name and consents, without a look at what is asked.

    `scope` is what they leave of the scopes that are asked for, each time; `asked` is where clients sent them.
    """

    subject: str
    scope: str | None = None
    asked: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    _came_back: dict[str, str] = field(default_factory=dict[str, str])

    async def open(self, url: str) -> None:
        """Go where a client sends its user, until the answer leads back to the client."""
        address, _, query = url.partition("?")
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        self.asked.append(asked)
        if self.scope is not None:
            asked = asked | {"scope": self.scope}
        place = f"{address}?{urlencode(asked)}"
        async with httpx2.AsyncClient(timeout=25) as http:
            while not place.startswith(asked["redirect_uri"]):
                answer = await http.get(place)
                if answer.status_code == 200:  # a page, which wants a name, or consent
                    prompt = "login" if 'name="login"' in answer.text else "consent"
                    form = {"prompt": prompt, "login": self.subject, "password": "any"}
                    answer = await http.post(answer.url, data=form)
                assert answer.is_redirect, answer.text
                place = str(answer.url.join(answer.headers["location"]))
        self._came_back = {name: values[0] for name, values in parse_qs(urlsplit(place).query).items()}

    async def answer(self) -> AuthorizationCodeResult:
        """Give the client what came back."""
        return AuthorizationCodeResult(**self._came_back)
