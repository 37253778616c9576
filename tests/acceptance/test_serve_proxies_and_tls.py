"""`serve` behind a proxy, over TLS, and its warning of tokens that can be read on their way."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.web.certificates import open_certificate
from tests.acceptance.test_processes import environ, run
from tests.acceptance.test_serve import serving
from tests.support.certificates import Pair, trusting
from tests.support.connect import call

pytestmark = pytest.mark.acceptance
CLAIMS = [
    [],
    ["203.0.113.9"],
    ["198.51.100.1, 203.0.113.9, 10.1.2.3"],
    ["198.51.100.1", "203.0.113.9"],
    ["2001:db8::9"],
    ["10.1.2.3"],
]


@pytest.mark.parametrize(
    ("trusted", "seen"),
    [
        ("", ["127.0.0.1"] * 6),
        ("192.0.2.1", ["127.0.0.1"] * 6),
        (
            "127.0.0.1, 10.0.0.0/8",
            ["127.0.0.1", "203.0.113.9", "203.0.113.9", "203.0.113.9", "2001:db8::9", "10.1.2.3"],
        ),
    ],
)
async def test_only_a_trusted_proxy_says_who_asks(trusted: str, seen: list[str], edge_home: Path) -> None:
    env = environ(edge_home) | {"AGENTAPI_TRUSTED_PROXIES": trusted, "FORWARDED_ALLOW_IPS": "*"}
    async with serving(env, "--insecure") as server:
        async with httpx2.AsyncClient() as http:
            for number, claims in enumerate(CLAIMS):
                headers = [("x-forwarded-for", claim) for claim in claims] + [("x-request-id", f"claim{number}")]
                assert (await http.get(f"{server.base}/nowhere", headers=headers)).status_code == 404
        assert await server.stop() == 0
    lines = [line for line in "".join(server.stderr).splitlines() if "http_request" in line]
    found = [next(line for line in lines if f"request_id=claim{number}" in line) for number in range(len(CLAIMS))]
    assert [line.partition("client=")[2].split()[0] for line in found] == seen


# --- TLS


async def test_it_speaks_tls_and_takes_a_renewed_certificate(edge_home: Path, tmp_path: Path) -> None:
    first, second = Pair.make(), Pair.make()
    chain, key = first.write(tmp_path)
    both = trusting(first, second)
    async with serving(environ(edge_home), "--tls-cert", str(chain), "--tls-key", str(key), verify=both) as server:
        assert server.base.startswith("https://127.0.0.1:")
        async with (
            httpx2.AsyncClient(verify=trusting(first), timeout=20) as http,
            Client(streamable_http_client(f"{server.base}/mcp", http_client=http)) as client,
        ):
            assert not (await call(client, "list_agents")).is_error
        async with httpx2.AsyncClient(verify=trusting(second)) as http:
            with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get(f"{server.base}/healthz")
        async with httpx2.AsyncClient() as http:
            with pytest.raises(httpx2.TransportError):
                await http.get(f"{server.base.replace('https', 'http')}/healthz")
        second.write(tmp_path)
        server.process.send_signal(signal.SIGHUP)
        await until_shown(server.base, second)
        key.write_text("nonsense", encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr is not None
        while b"certificate_not_renewed" not in await server.process.stderr.readline():
            pass
        await until_shown(server.base, second)
        assert await server.stop() == 0


async def until_shown(base: str, pair: Pair) -> None:
    """Connect until the server shows this certificate."""
    context = trusting(pair)
    while True:
        async with httpx2.AsyncClient(verify=context) as http:
            try:
                assert (await http.get(f"{base}/healthz")).status_code == 200
            except httpx2.ConnectError:
                continue
            return


def not_there(directory: Path) -> tuple[Path, Path]:
    return directory / "none.pem", Pair.make().write(directory)[1]


def of_two_pairs(directory: Path) -> tuple[Path, Path]:
    other = directory / "other"
    other.mkdir()
    return Pair.make().write(directory)[0], Pair.make().write(other)[1]


def turned_round(directory: Path) -> tuple[Path, Path]:
    chain, key = Pair.make().write(directory)
    return key, chain


def with_a_passphrase(directory: Path) -> tuple[Path, Path]:
    return Pair.make().write(directory, passphrase=b"secret")


def damaged(directory: Path) -> tuple[Path, Path]:
    chain, key = Pair.make().write(directory)
    chain.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", encoding="utf-8")
    return chain, key


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (not_there, "none.pem cannot be read (No such file or directory)"),
        (of_two_pairs, "is not the private key of the certificate in"),
        (turned_round, "holds no certificate in the PEM form"),
        (with_a_passphrase, "is encrypted"),
        (damaged, "cannot be used as a certificate and its private key"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_with_its_file(
    make: Callable[[Path], tuple[Path, Path]], says: str, tmp_path: Path
) -> None:
    chain, key = make(tmp_path)
    with pytest.raises(ConfigurationError) as refused:
        open_certificate(chain, key)
    assert says in str(refused.value)
    assert str(tmp_path) in str(refused.value)


async def test_one_half_of_a_pair_ends_the_program_with_the_reason(edge_home: Path, tmp_path: Path) -> None:
    chain, _ = Pair.make().write(tmp_path)
    status, _, err = await run(environ(edge_home), "serve", "--port", "0", "--tls-cert", str(chain))
    assert (status, "Give both --tls-cert and --tls-key" in err) == (3, True)


@pytest.mark.parametrize(
    ("host", "given", "warned"),
    [
        ("0.0.0.0", {}, True),  # noqa: S104  # with a token
        ("0.0.0.0", {"AGENTAPI_TRUSTED_PROXIES": "192.0.2.1"}, False),  # noqa: S104  # with a token
        ("127.0.0.1", {}, False),
    ],
)
async def test_it_says_when_tokens_can_be_read_on_their_way(
    host: str,
    given: dict[str, str],
    warned: bool,  # noqa: FBT001  # a parameter
    edge_home: Path,
) -> None:
    env = environ(edge_home) | {"AGENTAPI_BEARER_TOKEN": os.urandom(16).hex()} | given
    async with serving(env, "--host", host) as server:
        assert await server.stop() == 0
    assert ("AGENTAPI_TRUSTED_PROXIES" in "".join(server.stderr)) is warned
