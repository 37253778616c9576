"""The door of `serve` as an operator sets it up: proxies, TLS, refused sign-ins."""

from pathlib import Path

import httpx2
import pytest

from tests.acceptance.test_processes import environ
from tests.acceptance.test_serve import serving

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(60)]
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
    async with serving(env) as server:
        async with httpx2.AsyncClient() as http:
            for number, claims in enumerate(CLAIMS):
                headers = [("x-forwarded-for", claim) for claim in claims] + [("x-request-id", f"claim{number}")]
                assert (await http.get(f"{server.base}/nowhere", headers=headers)).status_code == 404
        assert await server.stop() == 0
    lines = [line for line in "".join(server.said).splitlines() if "http_request" in line]
    found = [next(line for line in lines if f"request_id=claim{number}" in line) for number in range(len(CLAIMS))]
    assert [line.partition("client=")[2].split()[0] for line in found] == seen
