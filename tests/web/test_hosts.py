"""Which hosts and origins a server answers to, as its operator names them and as clients send them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.types import Message

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.origins import Authority
from agentapi_mcp.web.hosts import Hosts, allowed_names
from agentapi_mcp.web.mounts import AuthenticationMode, Mount

HOSTS = st.text(alphabet="localhst127.0:@[]*evi-%", max_size=24)


def has_host(allowed: str, sent: str) -> bool:
    """Return whether a server with this allowed host answers a request for another."""
    host = Authority.parse(sent)
    return host is not None and allowed_names([allowed], []).has_host(host)


@pytest.mark.parametrize(
    ("allowed", "sent", "is_allowed"),
    [
        ("a.example", "a.example", True),
        ("a.example", "A.EXAMPLE:8443", True),
        ("a.example:*", "a.example:1", True),
        ("a.example:443", "a.example", True),  # a client leaves the usual port out
        ("a.example:443", "a.example:443", True),
        ("a.example:443", "a.example:80", False),
        ("a.example:8443", "a.example", False),
        ("a.example:8443", "a.example:8443", True),
        ("a.example", "b.a.example", False),
        ("a.example", "a.example.", False),
        ("a.example.", "a.example.", True),
        ("[2001:db8::1]", "[2001:DB8:0:0::1]:1", True),
        ("[2001:db8::1]:8443", "[2001:db8::1]", False),
    ],
)
def test_a_host_is_allowed_by_name_and_port(allowed: str, sent: str, is_allowed: bool) -> None:  # noqa: FBT001  # a parameter
    assert has_host(allowed, sent) == is_allowed


@pytest.mark.parametrize(
    ("allowed", "sent", "is_allowed"),
    [
        ("https://a.example", "https://a.example:443", True),
        ("https://a.example:443", "https://a.example", True),
        ("https://A.example/", "https://a.example", True),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example:*", "https://a.example:8443", True),
        ("https://a.example:*", "http://a.example:8443", False),
        ("https://a.example", "https://a.example@evil.example", False),
        ("https://a.example", "https://a.example.", False),
        ("HTTP://A.example:80", "http://a.example", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("Chrome-Extension://ABCDEF/", "chrome-extension://abcdef", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdeg", False),
        ("chrome-extension://abcdef", "moz-extension://abcdef", False),
        ("chrome-extension://abcdef", "https://abcdef", False),
        ("vscode-file://vscode-app", "vscode-file://vscode-app", True),
        ("app://obsidian.md", "app://obsidian.md", True),
        ("app://obsidian.md", "app://obsidian.md:1", False),
        ("app://obsidian.md:*", "app://obsidian.md:1", True),
        ("https://a.example", "null", False),
        ("https://a.example", "", False),
    ],
)
def test_an_origin_is_allowed_by_scheme_name_and_port(allowed: str, sent: str, is_allowed: bool) -> None:  # noqa: FBT001  # a parameter
    assert allowed_names([], [allowed]).has_origin(sent) == is_allowed


@pytest.mark.parametrize(
    "name", ["", "*", "a/", "https://a", "u@a", "a:", "a:b", "a:1:*", "a:*:*", "[::1", "a b", "-a"]
)
def test_a_name_that_no_request_can_carry_is_refused_at_the_start(name: str) -> None:
    if name != "a:":  # which is a host with no port
        with pytest.raises(ConfigurationError, match="is no allowed host"):
            allowed_names([name], [])
    for origin in (f"ftp://{name}", f"1a://{name}", f"://{name}"):
        if origin not in {"ftp://a:", "ftp://a/"}:  # whose end says nothing
            with pytest.raises(ConfigurationError, match="is no allowed origin"):
                allowed_names([], [origin])


@given(HOSTS)
def test_only_this_machines_names_pass_a_server_without_allowed_hosts(text: str) -> None:
    host = Authority.parse(text)
    if host is not None and allowed_names([], []).has_host(host):
        assert host.host in {"localhost", "127.0.0.1", "[::1]"}
        assert "@" not in text


async def test_however_many_hosts_were_served_the_next_is_judged_by_its_name() -> None:
    app = PlainTextResponse("served")
    hosts = Hosts(app, Mount(paths=("/",), app=app, authentication=AuthenticationMode.OPEN), allowed_names([], []))

    async def ask(host: str) -> int:
        statuses: list[int] = []

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
        await hosts(scope, receive, send)
        return statuses[0]

    for round_ in range(2):
        assert {await ask(f"localhost:{port}") for port in range(1, 300)} == {200}, round_
        assert [await ask(host) for host in ("evil.example", "localhost.evil.example", "localhost:x")] == [
            421,
            421,
            400,
        ]


@pytest.mark.parametrize(
    ("sent", "words"), [([], b"Send the header Host."), ([(b"host", b"a b")], b"Host is no host with a port.")]
)
async def test_a_host_that_is_missing_is_asked_for(sent: list[tuple[bytes, bytes]], words: bytes) -> None:
    app = PlainTextResponse("served")
    hosts = Hosts(app, Mount(paths=("/",), app=app, authentication=AuthenticationMode.OPEN), allowed_names([], []))
    said = list[Message]()

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await hosts({"type": "http", "method": "GET", "path": "/", "headers": sent}, receive, send)
    assert said[0]["status"] == 400
    assert words in said[1]["body"]
