"""The settings are documented, each by its own name, and read as people write them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.settings import BARE_NAMES, Settings, for_stdio, load_settings, variable_of, with_prefixed_names
from tests.support.settings_example import EXAMPLE, KEYS, example, variable

UNSENDABLE = "must be of printable ASCII characters, with no space at an end: clients send it in a header"
WHOLE_ADDRESS = "must be the whole address that clients use, as in https://agents.example.com/mcp"
NETWORKS = "must be addresses or networks, as in 10.1.2.3 or 10.1.0.0/16, with commas between them"
ROOT = Path(__file__).parents[2]


def test_the_example_shows_every_setting() -> None:
    is_current = EXAMPLE.read_text(encoding="utf-8") == example()
    assert is_current, "run `make settings`, and look at what it changes"


def test_the_defaults_that_the_example_shows_are_read_as_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = re.findall(r"^# (AGENTAPI_\w+)=(.+)$", example(), re.MULTILINE)
    for name, value in shown:
        monkeypatch.setenv(name, value)
    assert "AGENTAPI_TOOLSETS" in dict(shown)
    assert load_settings() == Settings.model_construct()


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    names = [*map(variable, Settings.model_fields), *KEYS]
    missing = [name for name in names if f"`{name}`" not in page]
    assert missing == [], "add a row for each to docs/configuration.md"


def test_the_example_shows_what_the_packaged_agents_are_given() -> None:
    packaged = (ROOT / "src" / "agentapi_mcp" / "defaults.toml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+)", packaged)) == set(KEYS)


def test_no_message_names_a_variable_that_is_not_there() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"\bAGENTAPI_[A-Z]\w+", sources))
    assert {"AGENTAPI_HOME", "AGENTAPI_POSTGRES_BINDIR"} <= named
    assert named <= {variable(name) for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Agents.Example.com/mcp", "https://agents.example.com"),
        ("https://agents.example.com:443/mcp", "https://agents.example.com"),
        ("https://agents.example.com:8443/mcp", "https://agents.example.com:8443"),
        ("http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000"),
        ("http://[::1]:80/mcp", "http://[::1]"),
    ],
)
def test_the_origin_is_what_browsers_write(url: str, origin: str) -> None:
    assert Settings(resource_url=url).origin == origin


@pytest.mark.parametrize("written", ["INFO", "Info", " info"])
def test_a_log_level_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("AGENTAPI_LOG_LEVEL", written)
    assert load_settings().log_level == "info"


@pytest.mark.parametrize("name", ["home", "config", "postgres_bindir"])
def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable(name), "~/place")
    assert getattr(load_settings(), name) == tmp_path / "place"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("bearer_token", "short", "must have at least 16 characters"),
        ("bearer_token", "é" * 20, UNSENDABLE),
        ("bearer_token", "0123456789abcdef\n", UNSENDABLE),
        ("bearer_token", "0123456789 abcdef ", UNSENDABLE),
        ("bearer_token", "\udcff" * 20, UNSENDABLE),
        ("redis_prefix", "\udcff", "must be text in UTF-8"),
        ("wait_seconds", "1" * 5000, "must be a whole number of fewer digits"),
        ("config", "~nobody-of-this-name/x.toml", "begins with a ~ whose home directory is unknown"),
        ("home", "data", "must be an absolute path, or begin with ~/"),
        ("log_level", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
        ("trusted_proxies", "10.0.0.1, proxy.example", NETWORKS),
        ("trusted_proxies", "*", NETWORKS),
        ("trusted_proxies", "10.0.0.1/8", NETWORKS),
        ("trusted_proxies", "::/0", "must not be every address: anybody could then claim to be anybody else"),
        ("resource_url", "agents.example.com/mcp", WHOLE_ADDRESS),
        ("resource_url", "https://agents.example.com/mcp?x=1", WHOLE_ADDRESS),
        ("resource_url", "https://agents.example.com:99999/", WHOLE_ADDRESS),
        ("resource_url", "https://agents.example.com:abc/mcp", WHOLE_ADDRESS),
        ("resource_url", 'https://agents.example.com/m"c p', WHOLE_ADDRESS),
        ("resource_url", "https://agents.example.com/\nmcp", WHOLE_ADDRESS),
        (
            "resource_url",
            "https://user:word@agents.example.com/mcp",
            "must not hold a name or a password: everybody is told this address",
        ),
        (
            "resource_url",
            "http://agents.example.com/mcp",
            "must begin with https: tokens travel as they are; http is for this machine alone",
        ),
        ("pool_size", "1", "must be at least 2"),
        ("start_timeout_seconds", "0", "must be more than 0"),
        ("statement_cache", "perhaps", "must be true or false"),
        ("user_id", "me", "must be an id such as 6a1f0c52-9a1e-4f43-8a60-0d5b7f7f6f01"),
        ("wait_seconds", "241", "must be at most 240"),
        ("wait_seconds", "soon", "must be a whole number"),
    ],
)
def test_a_wrong_setting_is_told_by_its_variable_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable(name), value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == f"A setting is wrong: {variable(name)} {reason}."


PLACEHOLDER = "is a placeholder of the form {}, in whose place nobody put the value"


@pytest.mark.parametrize("field", [name for name in Settings.model_fields if name != "master_key_command"])
def test_a_placeholder_that_a_client_did_not_fill_in_is_told_as_one(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    name = variable(field)
    for value, form in ((f"${{{name}}}", "${...}"), ("${input:x}", "${...}"), ("{{x}}", "{{...}}"), ("<x>", "<...>")):
        monkeypatch.setenv(name, value)
        for ignored in ((), BARE_NAMES):
            with pytest.raises(ConfigurationError) as refused:
                load_settings(ignored)
            assert str(refused.value) == f"A setting is wrong: {name} {PLACEHOLDER.format(form)}."


def test_only_what_is_read_has_to_be_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "vault read -format {{.Data.key}} ${KEY}"
    monkeypatch.setenv("AGENTAPI_MASTER_KEY_COMMAND", template)  # it is for the program, and read by no shell
    monkeypatch.setenv("SOMEBODY_ELSES", "${TOKEN}")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:${PASSWORD}@localhost/db")
    settings = load_settings(BARE_NAMES)  # as over stdio
    assert settings.master_key_command is not None
    assert settings.master_key_command.get_secret_value() == template
    with pytest.raises(ConfigurationError, match=re.escape("DATABASE_URL is a placeholder of the form ${...}")):
        load_settings()
    monkeypatch.setenv("AGENTAPI_DATABASE_URL", "postgresql://localhost/db")
    assert load_settings().database_url is not None


# What an environment can hold: no NUL, and bytes that are not UTF-8 as halves of surrogate pairs.
WRITTEN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.binary().map(
    lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)


@given(st.sampled_from([variable(name) for name in Settings.model_fields] + ["DATABASE_URL", "REDIS_URL"]), WRITTEN)
def test_any_value_of_a_setting_is_read_or_refused_without_being_repeated(name: str, value: str) -> None:
    said = ""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(name, f"s3cret {value}")
        try:
            load_settings()
        except ConfigurationError as refused:
            said = str(refused)
    assert "s3cret" not in said
    assert not said or said.startswith(f"A setting is wrong: {name} ")


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "AGENTAPI_DATABASE_URL"),
        ({"DATABASE_URL": "x"}, "DATABASE_URL"),
        ({"DATABASE_URL": "x", "AGENTAPI_DATABASE_URL": "y"}, "AGENTAPI_DATABASE_URL"),
        ({"DATABASE_URL": "x", "AGENTAPI_DATABASE_URL": ""}, "DATABASE_URL"),
        ({"database_url": "x"}, "DATABASE_URL"),
    ],
)
def test_a_setting_with_two_names_is_called_by_the_one_that_was_read(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str
) -> None:
    for other in ("DATABASE_URL", "AGENTAPI_DATABASE_URL"):
        monkeypatch.delenv(other, raising=False)
    for given_name, value in environ.items():
        monkeypatch.setenv(given_name, value)
    assert variable_of("database_url", environ) == name
    read = load_settings().database_url
    values = {key.upper(): value for key, value in environ.items()}
    assert (read.get_secret_value() if read else None) == values.get(name)


def test_a_setting_with_one_name_is_called_by_it() -> None:
    assert variable_of("migrate_database_url", {"MIGRATE_DATABASE_URL": "x"}) == "AGENTAPI_MIGRATE_DATABASE_URL"


BARE = st.sampled_from(["DATABASE_URL", "database_url", "REDIS_URL", "Redis_Url"])


@given(st.dictionaries(st.one_of(BARE, BARE.map("AGENTAPI_{}".format)), st.sampled_from(["x", "y", ""])))
def test_over_stdio_no_address_is_read_from_a_name_without_our_prefix(environ: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("DATABASE_URL", "REDIS_URL"):
            environment.delenv(name, raising=False)
            environment.delenv(f"AGENTAPI_{name}", raising=False)
        for name, value in environ.items():
            environment.setenv(name, value)
        read = load_settings()
        over_stdio, ignored = for_stdio(read, environ)
    for field in ("database_url", "redis_url"):
        named = variable_of(field, environ)
        bare = named == field.upper()
        assert (named in ignored) is bare
        assert getattr(over_stdio, field) == (None if bare else getattr(read, field))


def test_a_server_that_a_command_starts_over_stdio_reads_what_the_command_reads() -> None:
    given_names = {"database_url": "x", "REDIS_URL": "y", "AGENTAPI_REDIS_URL": "z", "PATH": "p"}
    assert with_prefixed_names(given_names) == given_names | {"AGENTAPI_DATABASE_URL": "x"}
