"""The address that `serve` announces is the one that clients use."""

import pytest

from agentapi_mcp.cli.serve import ServeOptions, client_base
from agentapi_mcp.settings import Settings

ANY = "0.0.0.0"  # noqa: S104  # what the operator gives
RESOURCE = {"resource_url": "https://agents.example.com:8443/mcp"}


@pytest.mark.parametrize(
    ("host", "hosts", "given", "listening", "said"),
    [
        ("127.0.0.1", (), {}, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1", ("localhost", "[::1]:*"), {}, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1", ("a.example",), {}, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1", ("a.example",), {"trusted_proxies": "127.0.0.1"}, "http://127.0.0.1:8000", "https://a.example"),
        ("127.0.0.1", (), RESOURCE, "http://127.0.0.1:8000", "https://agents.example.com:8443"),
        (ANY, (), {}, "http://0.0.0.0:8000", "http://0.0.0.0:8000"),
        (ANY, ("localhost", "a.example", "b.example"), {}, "http://0.0.0.0:8000", "http://a.example:8000"),
        (ANY, (), {"allowed_hosts": "a.example"}, "https://0.0.0.0:8443", "https://a.example:8443"),
        (ANY, ("a.example:443",), {}, "https://0.0.0.0:8443", "https://a.example:443"),
        (ANY, ("a.example:*",), {}, "http://0.0.0.0:8000", "http://a.example:8000"),
        ("::", ("[2001:db8::1]",), {}, "http://[::]:8000", "http://[2001:db8::1]:8000"),
        (ANY, ("a.example",), RESOURCE, "http://0.0.0.0:8000", "https://agents.example.com:8443"),
    ],
)
def test_the_address_is_the_one_that_was_said_to_be_called(
    host: str, hosts: tuple[str, ...], given: dict[str, str], listening: str, said: str
) -> None:
    options = ServeOptions(host=host, port=8000, insecure=False, needs_token=False, hosts=hosts, origins=())
    settings = Settings(**given)  # type: ignore[arg-type]  # pydantic reads them
    assert client_base(settings, options, listening) == said
