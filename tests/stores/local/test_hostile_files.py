"""Whatever stands in a catalogue file, it is a catalogue or it is refused with its place, and no secret is repeated."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.core.catalogue.models import CatalogueFile
from agentapi_mcp.stores.local.catalogue_files import FILE_NAME, load_catalogue
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.hostile import json_values

SECRET = "s3cret-0123456789"  # noqa: S105  # the test looks for it everywhere
ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)  # written anew

KEYS = st.sampled_from(
    [
        *("use_defaults", "agents", "backend", "options", "models", "name", "model_id", "provider", "prices", "input"),
        *(
            "on",
            "context_window",
            "enabled",
            "description",
            "default_model",
            "api_key",
            "base_url",
            "a.b",
            '"a\\u0000b"',
        ),
    ]
)
VALUES = st.sampled_from(
    [
        *("true", "1", "-1", "1.5", "nan", "inf", "1e999999", "1e99999999999999999999", "0x" + "f" * 5000, "9" * 5000),
        *(
            '"openai"',
            '"guide"',
            f'"{SECRET}"',
            f'"""\n{SECRET}"""',
            '"${A_KEY}"',
            '"${UNSET:-x}"',
            '"${"',
            '"$${"',
            '"\\u0000"',
        ),
        *("2026-07-02", "2026-07-02T00:00:00Z", "07:32:00", "[]", "{}", "[{}]", "[[1]]", "{name = 1}", "[" * 2000, "'"),
    ]
)
HEADERS = st.sampled_from(
    [
        "[agents.a]",
        "[agents.a.options]",
        "[[agents.a.models]]",
        "[agents]",
        "[[agents]]",
        "[agents.'é']",
        "[",
        "[a.b.c]",
    ]
)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"), HEADERS, st.text(max_size=8), st.just("\r")
)
NEARLY = st.lists(LINES, max_size=8).map("\n".join)
VALID_BEGIN = '[agents.a]\nbackend = "openai"\n'


def load(folder: Path, content: bytes, environ: Mapping[str, str] | None = None) -> CatalogueFile:
    path = folder / FILE_NAME
    path.write_bytes(content)
    return load_catalogue([path], environ or {}, registry.names)


def refusal(folder: Path, content: bytes) -> str | None:
    """Return why it is refused; None when it is not."""
    try:
        load(folder, content, {"A_KEY": SECRET})
    except ConfigurationError as refused:
        return str(refused)
    return None


@ONE_FOLDER
@given(
    st.binary()
    | st.text().map(str.encode)
    | NEARLY.map(str.encode)
    | NEARLY.map(lambda text: (VALID_BEGIN + text).encode())
)
@example(b"x = " + b"1" * 5000)
@example(b"x = 1\ny = 1e99999999999999999999")
@example(b"[agents.a]\nbackend = 'openai'\noptions." + b".".join([b"a"] * 3000) + b" = 1")
@example(b"\xff")
@example(b"\xef\xbb\xbf\xef\xbb\xbfx = 1")
@example(b"x = " + b"[" * 3000)
@example(b"[agents.a]\nbackend = 'openai'\nmodels = [{name = 'x', prices.foo.bar = 1}]")
def test_any_text_is_a_catalogue_or_is_refused_with_its_line(tmp_path: Path, content: bytes) -> None:
    said = refusal(tmp_path, content)
    if said is not None:
        assert said.startswith(f"{tmp_path / FILE_NAME}, line ")
        assert SECRET not in said
        assert not re.search(r"<class|Traceback|pydantic|https?://", said)


@pytest.mark.parametrize(
    ("content", "line"),
    [("\n\nx = " + "1" * 5000, 3), ("a = 1.5\nb = 2e7\nx = 1e99999999999999999999\n", 3), ("x = 1_" + "0" * 5000, 1)],
)
def test_a_number_that_is_too_large_is_told_with_its_line(tmp_path: Path, content: str, line: int) -> None:
    assert refusal(tmp_path, content.encode()) == f"{tmp_path / FILE_NAME}, line {line}: a number is too large"


TEMPLATES = st.lists(
    st.sampled_from(["$", "$$", "{", "}", "${A_KEY}", "${UNSET}", ":-", "${UNSET:-", "${UNSET:-x}", "é", "A_KEY"])
).map("".join)


@ONE_FOLDER
@given(TEMPLATES)
@example("${")
@example("$${A_KEY}")
@example("${UNSET:-${A_KEY}}")
def test_a_variable_is_filled_in_or_missing_or_refused_and_never_read_twice(tmp_path: Path, template: str) -> None:
    content = f"[agents.a]\nbackend = 'openai'\noptions.style = {json.dumps(template)}\n".encode()
    filled: dict[str, str] = {}
    with suppress(ConfigurationError):
        for value in ("VALUE", "${A_KEY", "$${UNSET", "\\1"):
            [agent] = load(tmp_path, content, {"A_KEY": value}).agents
            filled[value] = str(agent.options["style"])
            assert agent.missing in {(), ("UNSET is not set",)}
    assert filled == {value: filled["VALUE"].replace("VALUE", value) for value in filled}


def test_a_variable_within_a_default_is_refused(tmp_path: Path) -> None:
    content = b"[agents.a]\nbackend = 'openai'\noptions.api_key = '${UNSET:-${A_KEY}}'\n"
    assert "line 3: a default may not hold another '${'" in str(refusal(tmp_path, content))


@pytest.mark.parametrize("kind", registry.builtin_names())
def test_any_options_of_a_backend_are_taken_or_refused_without_their_values(kind: str) -> None:
    names = ("base_url", "api_key", "headers", "provider", "stream", "extra_body", "idle_timeout_seconds", "max_tokens")

    @given(st.dictionaries(st.sampled_from(names) | st.text(), json_values(names, st.just(SECRET)), max_size=4))
    @example({"base_url": f"https://{SECRET}:{SECRET}@example.test"})
    @example({"base_url": "https://[", "api_key": SECRET})
    @example({"base_url": "https://example.test", "api_key": f"{SECRET}\n"})
    def check(options: dict[str, object]) -> None:
        try:
            registry.create(kind, options, FakeHost())
        except ConfigurationError as refused:
            said = str(refused)
        else:
            return
        assert SECRET not in said

    check()
