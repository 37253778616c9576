"""Options: what is refused, and that a refusal repeats no value."""

import contextlib
from pathlib import Path

import pytest

from agentapi_mcp.backends.wire.options import HttpOptions, read_options, secrets_of
from agentapi_mcp.base.errors import ConfigurationError
from tests.support.certificates import Pair

BASE = {"base_url": "https://example.test/v1/"}


def test_good_options_are_taken_and_hide_their_secrets() -> None:
    options = read_options(HttpOptions, BASE | {"api_key": " s3cret-value ", "headers": {"x-team": "t3am-value"}})
    assert options.base_url == "https://example.test/v1"
    assert secrets_of(options) == ("s3cret-value", "t3am-value")
    assert "value" not in repr(options)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"base_url": "ftp://example.test"}, "base_url"),
        ({"base_url": "https://s3cret:s3cret@example.test"}, "base_url"),
        ({"base_url": "https:///v1"}, "base_url"),
        ({"base_url": "https://example.test:s3cret/"}, "base_url"),
        ({"base_url": "https://example.test/?key=s3cret"}, "base_url must not hold a key in its query"),
        ({"base_url": "https://example.test/?v=1#s3cret"}, "base_url must not hold a query or fragment"),
        ({"base_url": "https://example.test/?v=s3cret 1"}, "base_url holds a character"),
        ({"base_url": 7}, "base_url must be a text"),
        ({"api_key": "s3cret\nx"}, "api_key"),
        ({"api_key": ["s3cret"]}, "api_key"),
        ({"headers": {"x-key": "s3crét"}}, "headers.x-key"),
        ({"headers": {"x key": "s3cret"}}, "headers.x key"),
        ({"idle_timeout_seconds": 0}, "idle_timeout_seconds must be more than 0"),
        ({"total_timeout_seconds": float("inf")}, "total_timeout_seconds"),
        ({"connect_timeout_seconds": "s3cret"}, "connect_timeout_seconds must be a number"),
        ({"api_kee": "s3cret"}, "api_kee is not an option; there are: api_key, base_url"),
    ],
)
def test_a_wrong_option_is_named_without_its_value(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_options(HttpOptions, BASE | wrong)
    said = str(caught.value)
    assert named in said
    assert "s3cr" not in said
    assert "pydantic" not in said
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match="base_url is missing"):
        read_options(HttpOptions, {})


def test_a_misspelt_option_is_named_before_the_one_it_leaves_out() -> None:
    with pytest.raises(ConfigurationError, match=r"wrong: base_ur is not an option; .*; base_url is missing\.$"):
        read_options(HttpOptions, {"base_ur": "http://127.0.0.1:1/v1"})


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_option_or_header_is_one_that_is_not_set(blank: str) -> None:
    given = {"api_key": blank, "idle_timeout_seconds": blank, "headers": {"x-a": blank, "x-b": "b"}}
    options = read_options(HttpOptions, BASE | given)
    assert options.api_key is None
    assert options.idle_timeout_seconds == 120
    assert list(options.headers) == ["x-b"]
    with pytest.raises(ConfigurationError, match="base_url is missing"):
        read_options(HttpOptions, {"base_url": blank})


@pytest.mark.parametrize(
    ("written", "path", "asked"),
    [
        ("https://h/v1/", "/models", "https://h/v1/models"),
        ("https://h/v1?a=b", "/models", "https://h/v1/models?a=b"),
        ("https://h/v1/?a=b&c=/d/", "/models?limit=1", "https://h/v1/models?limit=1&a=b&c=/d/"),
        ("https://h", "/models?limit=1", "https://h/models?limit=1"),
    ],
)
def test_the_query_of_an_address_goes_with_every_request(written: str, path: str, asked: str) -> None:
    assert read_options(HttpOptions, {"base_url": written}).url_of(path) == asked


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_of_authorities_must_be_one(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "s3cret.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="ca_file must name a file of certificates") as caught:
        read_options(HttpOptions, BASE | {"ca_file": str(path)})
    assert "s3cret" not in str(caught.value)
    chain, _ = Pair.make().write(tmp_path)
    assert read_options(HttpOptions, BASE | {"ca_file": str(chain)}).ca_file == str(chain)
    with contextlib.chdir(tmp_path), pytest.raises(ConfigurationError, match="ca_file must be an absolute path"):
        read_options(HttpOptions, BASE | {"ca_file": chain.name})
