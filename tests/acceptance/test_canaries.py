"""Canaries: unique texts in every place of a secret or of somebody's words, looked for wherever they do not belong."""

import asyncio
import base64
import json
import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import asyncpg
import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from redis import Redis
from typing_extensions import override

from agentapi_mcp.testing.http import Answer, Exchange
from tests.acceptance.test_processes import COMMAND, environ, run
from tests.acceptance.test_serve import Serving, serving, wait_for_address
from tests.conftest import DatabaseUrls
from tests.edges.mcp.test_http import ACCEPT, INITIALIZE, META, MODERN, message
from tests.support.connect import call
from tests.support.peers.issuer import IssuerPeer, SigningKey
from tests.support.peers.openai import OpenAIPeer
from tests.support.valkey import Valkey

pytestmark = pytest.mark.acceptance
RESOURCE = "https://agents.example.com/mcp"
KEY = SigningKey("one")
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass
class Flock:
    """The canaries, by the place where each was planted."""

    planted: dict[str, str] = field(default_factory=dict[str, str])

    def plant(self, place: str, value: str | None = None) -> str:
        """Make one, or count what has been made already as one."""
        self.planted[place] = value or f"canary{secrets.token_hex(10)}"
        return self.planted[place]

    def seen(self, text: str, *but: str) -> list[str]:
        """List those that are in a text, but those that may be there."""
        return sorted(
            place for place, value in self.planted.items() if value in text and not place.startswith(but or ("-",))
        )


class Blabber(OpenAIPeer):
    """A provider whose error says what it should not: the question and the key, on a line of its own each."""

    @override
    async def answer(self, exchange: Exchange, answer: Answer) -> None:
        """Answer one request."""
        if b"[[blab]]" in exchange.content:
            key = exchange.headers["authorization"].removeprefix("Bearer ")
            said = f"{exchange.json['messages']}\n{key}\nbody-of-the-provider"
            await answer.json(500, {"error": {"message": said, "code": key}})
        else:
            await super().answer(exchange, answer)


@dataclass
class Voice:
    """Somebody who asks in one era, and all that they heard."""

    http: httpx2.AsyncClient
    headers: Mapping[str, str]
    modern: bool
    heard: list[str] = field(default_factory=list[str])

    async def ask(self, method: str, **params: object) -> str:
        """Ask, and return the whole answer as it came."""
        more: dict[str, str] = dict(MODERN) if self.modern else dict(ACCEPT)
        if self.modern:
            params |= {"_meta": META}
            more["mcp-method"] = method
            if method in NAMED:
                name = str(params[NAMED[method]])
                more["mcp-name"] = name if name.isascii() and name.isprintable() else "x"
        return await self.post(json.dumps(message(method, params)), **more)

    async def call(self, tool: str, **arguments: object) -> str:
        """Call a tool."""
        return await self.ask("tools/call", name=tool, arguments=arguments)

    async def post(self, body: str | bytes, path: str = "/mcp", **headers: str) -> str:
        """Send any body."""
        given = {"content-type": "application/json", **self.headers, **headers}
        answer = await self.http.post(path, content=body, headers=given)
        self.heard.append(f"{answer.status_code} {answer.headers} {answer.text}")
        return answer.text

    async def begin(self) -> None:
        """Begin an MCP session, where the era has them."""
        if not self.modern:
            answer = await self.http.post(
                "/mcp", json=message("initialize", INITIALIZE), headers={**ACCEPT, **self.headers}
            )
            session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
            self.headers = {**self.headers, **session}


@dataclass
class Deployment:
    """The program with all that has a secret of its own."""

    flock: Flock
    server: Serving
    issuer: IssuerPeer
    stranger: IssuerPeer
    peer: Blabber
    env: dict[str, str]
    redis_url: str

    def token(self, place: str, subject: str, issuer: IssuerPeer | None = None, **changed: object) -> str:
        """Make an access token; each of its parts that says something is a canary."""
        said = {
            "iss": (issuer or self.issuer).issuer,
            "sub": subject,
            "aud": RESOURCE,
            "exp": datetime.now(UTC).timestamp() + 300,
            "scope": "chat read edit",
            "email": f"{self.flock.plant(f'{place}, its e-mail')}@example.com",
            "email_verified": True,
        }
        token = KEY.sign(said | changed)
        _, claims, signature = token.split(".")
        self.flock.plant(f"{place}, its claims", claims)
        self.flock.plant(f"{place}, its signature", signature)
        return token

    @asynccontextmanager
    async def voice(self, token: str | None, *, modern: bool) -> AsyncGenerator[Voice]:
        """Speak as whoever has the token."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=self.server.base, timeout=30) as http:
            voice = Voice(http, headers, modern)
            if token is not None:
                await voice.begin()
            yield voice


@asynccontextmanager
async def open_deployment(home: Path, directory: Path, database_url: str, valkey: Valkey) -> AsyncGenerator[Deployment]:
    flock = Flock()
    password = flock.plant("database password")
    secret = flock.plant("redis password")
    valkey.run("CONFIG", "SET", "requirepass", secret)
    redis_url = f"{valkey.url}?password={secret}"
    async with IssuerPeer(KEY) as issuer, IssuerPeer(KEY) as stranger, Blabber() as peer:
        config = directory / "agentapi.toml"
        agent = 'backend = "openai"\ndefault_model = "m"\nmodels = [{name = "m", model_id = "m", provider = "p"}]\n'
        options = f'base_url = "{peer.origin}/v1"\napi_key = "${{HOUSE_KEY}}"\n'
        config.write_text(
            f'[[issuers]]\nissuer = "{issuer.issuer}"\nnewcomers = "personal"\n'
            f'[[issuers]]\nissuer = "{stranger.issuer}"\n'
            f"[agents.house]\n{agent}[agents.house.options]\n{options}"
            f"[agents.hasty]\n{agent}[agents.hasty.options]\n{options}idle_timeout_seconds = 0.3\n",
            encoding="utf-8",
        )
        env = environ(home) | {
            "AGENTAPI_CONFIG": str(config),
            "AGENTAPI_DATABASE_URL": with_password(database_url, password),
            "AGENTAPI_REDIS_URL": redis_url,
            "AGENTAPI_RESOURCE_URL": RESOURCE,
            "AGENTAPI_BEARER_TOKEN": flock.plant("bearer token"),
            "AGENTAPI_MASTER_KEY": flock.plant("master key", base64.b64encode(secrets.token_bytes(32)).decode()),
            "AGENTAPI_LOG_LEVEL": "debug",
            "HOUSE_KEY": flock.plant("API key"),
            "AGENTAPI_MAX_BODY_BYTES": "65536",
            "PYTHONASYNCIODEBUG": "1",
        }
        async with serving(env) as server:
            yield Deployment(flock, server, issuer, stranger, peer, env, redis_url)


def with_password(url: str, password: str) -> str:
    """Give a login a password, where it has none: a server that trusts it does not look at it."""
    return re.sub(r"^(postgres\w*://[^:/@]+)@", rf"\1:{password}@", url)


async def test_no_canary_is_where_it_does_not_belong(
    edge_home: Path, tmp_path: Path, database_urls: DatabaseUrls, valkey: Valkey
) -> None:
    async with open_deployment(edge_home, tmp_path, database_urls.app, valkey) as at:
        flock = at.flock
        said, others = list[str](), list[str]()
        for era in ("2026", "2025"):
            ids = await in_one_era(at, era, said, others)
        await commands(at)
        async with at.voice(await own_secrets(at), modern=True) as voice:
            assert "completed" in await voice.call(
                "chat", agent="house", message=flock.plant("text with a key of one's own")
            )
            await curiosity(voice, ids)
            said += voice.heard
        kept = await rows(database_urls.owner)
        shared = await asyncio.to_thread(entries, at.redis_url)
        assert await at.server.stop() == 0
    log = "".join(at.server.stderr)
    assert not [each for each in others if each.startswith("429")]
    for sign in ("http_request", "token_refused", "first_sign_in", "status=413", "status=403", "status=404"):
        assert sign in log
    assert flock.seen(log) == []
    assert flock.seen("\n".join(others)) == []
    own = ("text", "2026 text", "2025 text")  # what somebody wrote is theirs to read again
    assert flock.seen("\n".join(said), *own) == []
    assert flock.seen(kept, *own, "key of idempotency", "token of ann", "token of bo") == []
    assert [name for name in flock.seen(kept) if name.endswith(("claims", "signature"))] == []
    assert flock.seen(shared, *own) == []
    asked = "\n".join(f"{each.path} {each.headers} {each.content!r}" for each in at.peer.exchanges)
    assert flock.seen(asked, *own, "API key") == []
    for where in ("\n".join(said), kept, asked):  # they are found where they do belong
        assert {"text of a message 2025", "text of a message 2026"} <= set(flock.seen(where))
    assert {"API key", "API key of one's own"} <= set(flock.seen(asked))


async def in_one_era(at: Deployment, era: str, said: list[str], others: list[str]) -> dict[str, str]:
    """Let a user, two who are curious and one without a token speak, and return what the user has made."""
    ann = at.token(f"token of ann {era}", f"ann-{secrets.token_hex(4)}")
    bo = at.token(f"token of bo {era}", f"bo-{secrets.token_hex(4)}")
    async with at.voice(ann, modern=era == "2026") as voice:
        ids = await everything(at, voice, era)
        said += voice.heard
    for token in (bo, at.flock.planted["bearer token"]):
        async with at.voice(token, modern=era == "2026") as voice:
            await curiosity(voice, ids)
            others += voice.heard
    async with at.voice(None, modern=era == "2026") as voice:
        await refusals(at, voice, era)
        others += voice.heard
    await over_sse(at, ann, era)
    return ids


async def everything(at: Deployment, ann: Voice, era: str) -> dict[str, str]:
    """Do all that a user can do well or badly, each time with canaries."""
    flock = at.flock

    def text(what: str, words: str = "") -> str:
        return f"{flock.plant(f'text of {what} {era}')} {words}".strip()

    key = flock.plant(f"key of idempotency {era}")
    prompt = text("a system prompt")
    turn = await ann.call("chat", agent="house", message=text("a message"), system_prompt=prompt, idempotency_key=key)
    ids = {name: re.findall(rf'\\?"{name}\\?":\\?"([^"\\]+)', turn)[0] for name in ("session_id", "turn_id")}
    await ann.call("chat", agent="house", message=text("another message"), idempotency_key=key)
    for script in ("blab", "leak", "e401", "e402", "e403", "e404", "e429", "e500", "badjson", "cut", "drop", "huge"):
        await ann.call("chat", agent="house", message=text(f"a failing message ({script})", f"[[{script}]]"))
    await ann.call("chat", agent="hasty", message=text("a message that times out", "[[hang]]"))
    running = await ann.call("chat", agent="house", message=text("a cancelled one", "[[waits]]"), wait_seconds=0)
    await ann.call("cancel_turn", turn_id=re.findall(r'turn_id\\?":\\?"([^"\\]+)', running)[0])
    body = message(
        "tools/call", {"name": "chat", "arguments": {"agent": "house", "message": text("one given up", "[[waits]]")}}
    )
    impatient = httpx2.Timeout(30, read=0.5)
    with pytest.raises(httpx2.ReadTimeout):
        await ann.http.post("/mcp", json=body, headers={**ACCEPT, **ann.headers}, timeout=impatient)
    await ann.ask("notifications/cancelled", requestId=1, reason=text("a reason"))
    await ann.call("get_transcript", session_id=ids["session_id"])
    await ann.call("list_sessions", query=flock.planted[f"text of a message {era}"])
    await mistakes(ann, text)
    for _ in range(3):  # so that the agent is unwell when others look
        await ann.call("chat", agent="house", message=text("a last message", "[[blab]]"))
    return ids


async def mistakes(ann: Voice, text: Any) -> None:  # noqa: ANN401  # a function of the caller
    """Send what is wrong in every way, with a canary in it."""
    for argument in ("agent", "model", "session_id", "idempotency_key", "temperature", "max_tokens", "wait_seconds"):
        await ann.call(
            "chat", **({"message": text(f"a message beside a wrong {argument}")} | {argument: [text(argument)]})
        )
        await ann.call(
            "chat", **({"message": text(f"a message beside another {argument}")} | {argument: text(argument)})
        )
    for odd in ("\0", "\ud800", "\x1b[2J"):
        await ann.call(
            "chat", agent="house", message=text("an odd message") + odd, system_prompt=text("an odd one") + odd
        )
        await ann.call("chat", agent="guide", message=text("a plain one"), idempotency_key=text("an odd key") + odd)
        await ann.call("list_sessions", query=text("an odd search") + odd, cursor=text("a cursor") + odd)
    await ann.call("chat", **{text("an unknown argument"): text("its value")})
    await ann.call(text("an unknown tool"))
    await ann.call("get_turn", turn_id=text("a turn"))
    await ann.call("get_transcript", session_id=text("a session"), cursor=text("a cursor"))
    await ann.ask(text("an unknown method"))
    await ann.ask("resources/read", uri=f"agentapi://chat/sessions/{text('an address')}/transcript")
    await ann.ask("resources/read", uri=text("no address"))
    await ann.ask("prompts/get", name=text("a prompt"), arguments={})
    reference = {"type": "ref/resource", "uri": "agentapi://chat/sessions/{session_id}/transcript"}
    await ann.ask("completion/complete", ref=reference, argument={"name": "session_id", "value": text("a completion")})
    await ann.post("{" + text("no JSON"), **ACCEPT)
    await ann.post(json.dumps([text("no message")]), **ACCEPT)
    await ann.post(json.dumps({"message": text("too much"), "more": "x" * 70_000}), **ACCEPT)
    await ann.post(text("a body of another type"), **{"content-type": "text/plain"})
    await ann.post(text("a lost body"), path="/nowhere")
    await ann.post(text("a stray body"), path="/messages/?session_id=0123456789abcdef0123456789abcdef")
    await ann.post("{}", **{"mcp-session-id": text("an MCP session"), "cookie": f"session={text('a cookie')}"})
    await ann.post("{}", **{"mcp-protocol-version": text("a version")})


async def curiosity(voice: Voice, ids: Mapping[str, str]) -> None:
    """Look at everything, as somebody whose it is not."""
    for tool in ("list_agents", "list_models", "list_sessions", "get_health"):
        await voice.call(tool)
    await voice.call("get_turn", turn_id=ids["turn_id"])
    await voice.call("cancel_turn", turn_id=ids["turn_id"])
    await voice.call("get_transcript", session_id=ids["session_id"])
    await voice.call("chat", agent="guide", session_id=ids["session_id"], message="what was said?")
    await voice.call("chat", agent="guide", message="which turns failed, and why?")
    for method in ("resources/list", "resources/templates/list", "prompts/list", "tools/list"):
        await voice.ask(method)
    for ending in ("transcript", "transcript.json"):
        await voice.ask("resources/read", uri=f"agentapi://chat/sessions/{ids['session_id']}/{ending}")
    reference = {"type": "ref/resource", "uri": "agentapi://chat/sessions/{session_id}/transcript"}
    await voice.ask("completion/complete", ref=reference, argument={"name": "session_id", "value": ""})


async def refusals(at: Deployment, nobody: Voice, era: str) -> None:
    """Send credentials of every kind that is refused."""
    now, flock = datetime.now(UTC).timestamp(), at.flock
    wrong = {
        "no token": flock.plant(f"wrong token {era}"),
        "for another": at.token(f"token for another {era}", "ann", aud="https://elsewhere.example"),
        "expired": at.token(f"expired token {era}", "ann", exp=now - 3600),
        "of nobody": at.token(f"token of nobody {era}", "nobody", at.stranger),
        "of no issuer": at.token(
            f"token of no issuer {era}", "ann", iss=f"https://{flock.plant(f'issuer {era}')}.example"
        ),
    }
    for token in wrong.values():  # fewer than what is looked at of one address in a minute
        await nobody.post("{}", authorization=f"Bearer {token}")
    await nobody.post("{}", authorization=wrong["no token"])
    await nobody.post("{}", authorization=f"Basic {flock.plant(f'basic credentials {era}')}")
    for name in ("access_token", "token", "api_key"):
        await nobody.post("{}", path=f"/mcp?{name}={flock.plant(f'{name} in the URL {era}')}")
    await nobody.post("{}", **{"x-api-key": flock.plant(f"key in a header {era}")})
    await nobody.post("{}")
    for path in ("/healthz", "/readyz", "/nowhere", "/.well-known/oauth-protected-resource", "/sse"):
        answer = await nobody.http.get(path)
        nobody.heard.append(f"{answer.headers} {answer.text}")


async def over_sse(at: Deployment, token: str, era: str) -> None:
    """Ask over the oldest transport as well."""
    headers = {"authorization": f"Bearer {token}"}
    async with Client(sse_client(f"{at.server.base}/sse", headers=headers)) as client:
        for script in ("", "[[blab]]"):
            said = f"{at.flock.plant(f'text over SSE {script} {era}')} {script}"
            await call(client, "chat", agent="house", message=said)
    async with (
        httpx2.AsyncClient(base_url=at.server.base, headers=headers, timeout=30) as http,
        http.stream("GET", "/sse") as stream,
    ):
        lines = stream.aiter_lines()
        while not (line := await anext(lines)).startswith("data: "):
            pass
        place, text = line.removeprefix("data: "), at.flock.plant(f"text of a wrong body over SSE {era}")
        wrong = (json.dumps([text]), json.dumps(message(text)), json.dumps(message("ping", {"_meta": text})))
        for body in ("{" + text, *wrong):
            await http.post(place, content=body, headers={"content-type": "application/json"})


async def commands(at: Deployment) -> None:
    """Do as an operator does, whose terminal shows no secret."""
    title = at.flock.plant("text of a title")
    status, out, err = await run(at.env, "chat", "--agent", "guide", "--json", "hello")
    assert status == 0, err
    session = str(json.loads(out)["session_id"])
    for words in (
        ("sessions", "rename", session, title),
        ("agents",),
        ("agents", "show", "house"),
        ("chat", "--agent", "house", f"{at.flock.plant('text of a command')} [[blab]]"),
        ("doctor",),
        ("migrate", "--status"),
    ):
        _, out, err = await run(at.env, *words)
        assert at.flock.seen(out, "text") == []
        assert at.flock.seen(err, "text of a command") == []


async def own_secrets(at: Deployment) -> str:
    """Make a personal token, and enter an API key; neither command shows the key, and the first shows the token."""
    flock = at.flock
    status, token, err = await run(at.env, "tokens", "create", "canary")
    assert status == 0, err
    assert flock.plant("personal token", token.strip()) not in err
    status, out, err = await run(at.env, "keys", "add", "p", stdin=flock.plant("API key of one's own"))
    assert status == 0, err
    _, listed, remarks = await run(at.env, "keys", "list", "--json")
    assert flock.seen(out + err + listed + remarks) == []
    return flock.planted["personal token"]


async def rows(url: str) -> str:
    """Read every row of every table, as a thief of the database does."""
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(url)
        stack.push_async_callback(connection.close)
        tables = await connection.fetch(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname IN ('public', 'agentapi')"
        )
        found = [await connection.fetch(f"SELECT t::text FROM {table[0]} t") for table in tables]  # noqa: S608  # from the catalogue
        return "\n".join(str(row[0]) for table in found for row in table)


def entries(url: str) -> str:
    """Read everything that Redis holds."""
    with Redis.from_url(url, decode_responses=True, protocol=2) as client:  # pyright: ignore[reportUnknownMemberType]  # its types are partly unknown
        redis = cast("Any", client)
        return "\n".join(f"{key} {everything_at(redis, key)}" for key in redis.keys("*"))


def everything_at(redis: Any, key: str) -> object:  # noqa: ANN401  # its types are partly unknown
    """Read one key, of whatever type."""
    match redis.type(key):
        case "hash":
            return redis.hgetall(key)
        case "list":
            return redis.lrange(key, 0, -1)
        case "set":
            return redis.smembers(key)
        case "zset":
            return redis.zrange(key, 0, -1)
        case "stream":
            return redis.xrange(key)
        case _:
            return redis.get(key)


async def test_addresses_that_do_not_work_are_told_without_their_passwords(edge_home: Path, valkey: Valkey) -> None:
    flock = Flock()
    away = f"postgresql://agentapi:{flock.plant('database password')}@127.0.0.1:9/none"
    odd = f"postgresql://agentapi:{quote(flock.plant('odd password') + '/#@', safe='')}@127.0.0.1:9/none"
    redis = f"{valkey.url}?password={flock.plant('redis password')}"
    for given in ({"DATABASE_URL": away}, {"DATABASE_URL": odd}, {"AGENTAPI_REDIS_URL": redis}):
        env = environ(edge_home) | given | {"AGENTAPI_LOG_LEVEL": "debug"}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "serve", "--port", "0", env=env, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        said = await wait_for_address(process)
        base = said[-1].partition("at ")[2].partition("/mcp")[0]
        async with httpx2.AsyncClient(timeout=20) as http:
            heard = [(await http.get(f"{base}/readyz")).text]
            asked = message("tools/call", {"name": "get_health", "arguments": {}})
            heard.append((await http.post(f"{base}/mcp", json=asked, headers=ACCEPT)).text)
        process.terminate()
        said.append((await process.stderr.read()).decode())
        await process.wait()
        assert flock.seen("".join([*said, *heard])) == []
        _, out, err = await run(env, "doctor")
        assert flock.seen(out + err) == []
