"""The pages on deployment and sign-in followed to the letter: their commands, behind a real nginx with their block."""

import asyncio
import json
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentapi_mcp.testing.http import Steps
from tests.acceptance.test_processes import environ, run
from tests.acceptance.test_serve import Serving, address_in, serving, wait_for_address
from tests.support.certificates import Pair, trusting
from tests.support.connect import fields_of
from tests.support.nginx import ReservedPort, nginx, nginx_program, reserved_port
from tests.support.peers.issuer import IssuerPeer, SigningKey
from tests.support.peers.openai import OpenAIPeer

pytestmark = pytest.mark.acceptance
PAGES = Path(__file__).parents[2] / "docs" / "how-to"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
CLIENT = "127.0.0.2"  # an address of this machine that is not the proxy's
KEY = SigningKey("pages")


def blocks(page: str, kind: str, after: str = "") -> list[str]:
    """Return the code blocks of one kind on a page, those after a heading; indented ones without their indentation."""
    text = (
        (PAGES / page).read_text(encoding="utf-8").partition(after)[2] if after else (PAGES / page).read_text("utf-8")
    )
    found = re.findall(rf"^( *)```{kind}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


PROXY = "## Behind a reverse proxy"


@dataclass(frozen=True)
class Place:
    """What one who follows the pages has: a directory, the proxy's port, its certificate, and `agentapi-mcp`."""

    directory: Path
    port: ReservedPort
    program: Path
    pair: Pair

    @property
    def token(self) -> str:
        """The token that the commands of the page have made."""
        return (self.directory / "token").read_text(encoding="utf-8")

    def server_block(self, serving: Serving) -> str:
        """Return the block of the page, with the ports and the files of this machine."""
        block = blocks("deploy.md", "nginx", PROXY)[0]
        for said, meant in (
            ("443 ssl", f"127.0.0.1:{self.port.number} ssl reuseport"),
            ("/etc/ssl/agents.example.com/fullchain.pem", str(self.directory / "cert.pem")),
            ("/etc/ssl/agents.example.com/privkey.pem", str(self.directory / "key.pem")),
            ("http://127.0.0.1:8000", serving.base),
        ):
            assert block.count(said) == 1, said
            block = block.replace(said, meant)
        return block

    @asynccontextmanager
    async def served(self, script: str, env: Mapping[str, str]) -> AsyncGenerator[Serving]:
        """Run the commands of a page, of which the last one serves."""
        env = {**env, "PATH": f"{self.directory}:{os.defpath}"}
        script = re.sub(r"^(?=agentapi-mcp serve )", "exec ", script, flags=re.MULTILINE)  # so that a signal reaches it
        process = await asyncio.create_subprocess_exec("sh", "-ec", script, env=env, stderr=asyncio.subprocess.PIPE)
        try:
            said = await wait_for_address(process)
            base = address_in(said[-1])
            async with httpx2.AsyncClient(timeout=20) as http:
                while (await http.get(f"{base}/readyz")).status_code != 200:
                    pass
            yield Serving(process, base, said)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    @asynccontextmanager
    async def behind_nginx(self, script: str, env: Mapping[str, str]) -> AsyncGenerator[Serving]:
        """Run them with nginx in front."""
        async with (
            self.served(script, env) as serving,
            nginx(self.program, self.directory / "nginx", self.server_block(serving)),
        ):
            async with self.client() as http:
                while not await _answers(http):
                    pass
            yield serving

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncGenerator[httpx2.AsyncClient]:
        """Open a client on another address than the proxy's."""
        transport = httpx2.AsyncHTTPTransport(verify=trusting(self.pair), local_address=CLIENT)
        async with httpx2.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port.number}",
            transport=transport,
            headers=headers,
            timeout=30,
        ) as http:
            yield http


async def _answers(http: httpx2.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).status_code == 200
    except httpx2.ConnectError:
        return False


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    """Prepare what the pages take for granted."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    program, pair = nginx_program(), Pair.make()
    pair.write(tmp_path)
    command = tmp_path / "agentapi-mcp"
    # On a port of its own choice, since another server may have the usual one.
    command.write_text(
        f'#!/bin/sh\nprintf %s "$AGENTAPI_BEARER_TOKEN" > {shlex.quote(str(tmp_path / "token"))}\n'
        f'[ "$1" != serve ] || set -- "$@" --port 0\nexec {shlex.quote(sys.executable)} -m agentapi_mcp "$@"\n',
        encoding="utf-8",
    )
    command.chmod(stat.S_IRWXU)
    async with reserved_port() as port:
        yield Place(tmp_path, port, program, pair)


def lines_of(serving: Serving, path: str) -> Iterator[str]:
    """List the lines of the log on requests of a path."""
    return (line for line in "".join(serving.stderr).splitlines() if "http_request" in line and f"path={path}" in line)


async def test_the_commands_of_the_page_serve_behind_its_nginx_whoever_has_the_token(
    edge_home: Path, place: Place
) -> None:
    script = blocks("deploy.md", "sh", PROXY)[0]
    steps = Steps()
    async with OpenAIPeer(pace=steps) as peer, place.behind_nginx(script, environ(edge_home, peer)) as serving:
        host = {"host": "agents.example.com"}
        for headers, status in (
            ({"authorization": f"Bearer {place.token}"}, 200),
            ({"authorization": f"Bearer {place.token}", "x-forwarded-for": "203.0.113.66"}, 200),
            ({}, 401),
            ({"authorization": "Bearer forged"}, 401),
            ({"authorization": f"Bearer {KEY.sign({'sub': 'me'})}"}, 401),
        ):
            async with place.client(**host, **headers) as http:
                assert (await http.post("/mcp", json=PING)).status_code == status
        async with place.client(**host, authorization=f"Bearer {place.token}") as http:
            large = {**PING, "method": "ping", "params": {"_meta": {"x": "x" * 3_000_000}}}
            assert (await http.post("/mcp", json=large)).status_code == 200
            await hear_a_piece_before_the_end(http, steps)
        assert await serving.stop() == 0
    requests = list(lines_of(serving, "/mcp"))
    assert len(requests) >= 6
    assert all(f"client={CLIENT}" in line for line in requests)
    assert "proxy_not_trusted" not in "".join(serving.stderr)
    assert " serves MCP at https://agents.example.com/mcp " in "".join(serving.stderr)


async def test_a_proxy_pass_and_nothing_else_lets_no_stranger_in_without_a_token(
    edge_home: Path, tmp_path: Path
) -> None:
    program = nginx_program()
    async with reserved_port() as port, serving(environ(edge_home)) as server:
        listen = f"listen 127.0.0.1:{port.number} reuseport;"
        block = f"server {{ {listen} location / {{ proxy_pass {server.base}; }} }}"
        async with (
            nginx(program, tmp_path / "nginx", block),
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port.number}", timeout=30) as http,
        ):
            while not await _answers(http):
                pass
            refused = await http.post("/mcp", json=PING)
            assert (refused.status_code, "AGENTAPI_BEARER_TOKEN" in refused.text) == (403, True)
            assert (await http.post(f"{server.base}/mcp", json=PING)).status_code == 200


async def hear_a_piece_before_the_end(http: httpx2.AsyncClient, steps: Steps) -> None:
    """Chat through the proxy, and let the provider end only when the client has heard how it began."""
    heard = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message and "w1" in message:
            heard.set()

    arguments = {"agent": "droid", "message": f"[[slow]] [[chunks9]] {os.urandom(4).hex()}"}
    async with (
        Client(streamable_http_client(f"{http.base_url}/mcp", http_client=http)) as client,
        asyncio.TaskGroup() as group,
    ):
        chat = group.create_task(client.call_tool("chat", arguments, progress_callback=hear))
        steps.release(3)
        await heard.wait()
        steps.release(20)
        assert fields_of(await chat)["status"] == "completed"


async def sign_in_page(place: Place, env: Mapping[str, str], issuer: IssuerPeer) -> str:
    """Follow the page: write its file, and return its commands, with the names of this machine."""
    status, out, err = await run(env, "organization", "create", f"Acme {os.urandom(4).hex()}")
    assert status == 0, err
    organization = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", out)
    assert organization is not None, out
    file = blocks("sign-in.md", "toml")[0].replace("https://auth.example.com", issuer.issuer)
    file = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", organization[0], file)
    (place.directory / "agentapi.toml").write_text(file, encoding="utf-8")
    export = blocks("sign-in.md", "sh")[0].replace("https://agents.example.com", place.port.origin)
    serve = re.search(r"`(agentapi-mcp serve [^`]*)`", (PAGES / "sign-in.md").read_text(encoding="utf-8"))
    proxies = re.search(r"^export AGENTAPI_TRUSTED_PROXIES=.*$", blocks("deploy.md", "sh", PROXY)[0], re.MULTILINE)
    assert serve is not None
    assert proxies is not None
    return f"{export}\n{proxies[0]}\n{serve[1]}"


async def test_people_sign_in_by_the_page_and_doctor_sees_it_as_a_stranger_does(edge_home: Path, place: Place) -> None:
    config = {"AGENTAPI_CONFIG": str(place.directory / "agentapi.toml")}
    (place.directory / "agentapi.toml").touch()
    resource = f"{place.port.origin}/mcp"
    claims = {"sub": os.urandom(4).hex(), "aud": resource, "email": "ann@example.com", "email_verified": True}
    async with IssuerPeer(KEY) as issuer:
        env = environ(edge_home) | config
        script = await sign_in_page(place, env, issuer)
        claims |= {"iss": issuer.issuer, "exp": datetime.now(UTC).timestamp() + 300, "scope": "read chat edit"}
        asking = env | {"AGENTAPI_RESOURCE_URL": resource, "SSL_CERT_FILE": str(place.directory / "cert.pem")}
        trusting = {"AGENTAPI_TRUSTED_PROXIES": "127.0.0.1"}
        checks = await doctor(asking | trusting)
        assert checks["resource URL"]["outcome"] == "fault"
        assert "nothing listens there" in checks["resource URL"]["detail"]
        async with place.behind_nginx(script, env) as serving:
            for token, status in ((KEY.sign(claims), 200), (None, 401), (SigningKey("pages").sign(claims), 401)):
                headers = {} if token is None else {"authorization": f"Bearer {token}"}
                async with place.client(host=f"localhost:{place.port.number}", **headers) as http:
                    answer = await http.post("/mcp", json=PING)
                assert answer.status_code == status, answer.text
            checks = await doctor(asking | trusting)
            names = ("sign-in", f"issuer {issuer.issuer}", "organizations", "resource URL", "proxy")
            assert {checks[name]["outcome"] for name in names} == {"ok"}, checks
            assert await serving.stop() == 0
        assert all(f"client={CLIENT}" in line for line in list(lines_of(serving, "/mcp"))[:3])
        assert len(list(lines_of(serving, "/mcp"))) >= 4


async def test_doctor_measures_that_the_proxy_is_not_trusted(edge_home: Path, place: Place) -> None:
    config = {"AGENTAPI_CONFIG": str(place.directory / "agentapi.toml")}
    (place.directory / "agentapi.toml").touch()
    async with IssuerPeer(KEY) as issuer:
        env = environ(edge_home) | config
        script = await sign_in_page(place, env, issuer)
        forgotten = re.sub(r"^export AGENTAPI_TRUSTED_PROXIES=.*\n", "", script, flags=re.MULTILINE)
        async with place.behind_nginx(forgotten, env):
            certificate = str(place.directory / "cert.pem")
            checks = await doctor(
                env | {"AGENTAPI_RESOURCE_URL": f"{place.port.origin}/mcp", "SSL_CERT_FILE": certificate}
            )
    assert checks["proxy"]["outcome"] == "fault"
    assert checks["proxy"]["mend"] == ["export AGENTAPI_TRUSTED_PROXIES=..."]


Checks = dict[str, dict[str, str]]


async def doctor(env: Mapping[str, str]) -> Checks:
    """Run it, and return its checks by name."""
    _, out, _ = await run(env, "doctor", "--json")
    return {check["name"]: check for check in json.loads(out)["checks"]}
