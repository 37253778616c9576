"""No secret of the environment is in a file that others may read, or in anything that is printed."""

import asyncio
import io
import json
import stat
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, InvalidRequestError
from agentapi_mcp.cli import connecting
from agentapi_mcp.cli.config_secrets import difference, hide, is_secret, secrets_in
from agentapi_mcp.cli.connecting import ConnectOptions
from agentapi_mcp.cli.known_clients import NAMES, find_client
from agentapi_mcp.cli.mcp_clients import McpClient
from agentapi_mcp.cli.trials import try_server

CANARY = "cAn4ry"
# Printed, quoted and escaped in other ways by each format.
SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map(lambda text: CANARY + text)
VARIABLES = st.sampled_from(["OPENROUTER_API_KEY", "DATABASE_URL", "MY_THING", "AGENTAPI_MASTER_KEY"])
OTHER = {
    "json": '{\r\n\t"%s": {\r\n\t\t"files": {"command": "npx", "env": {"FILES_TOKEN": %s}}, // mine\r\n\t},\r\n}\r\n',
    "toml": '# mine\n[%s.files]\ncommand = "npx"\nenv = { FILES_TOKEN = %s }\n',
}
OURS = {
    "json": '{"%s": {"agentapi": {"command": "agentapi-mcp", "args": [], "env": {"%s": %s}}}}',
    "toml": '[%s.agentapi]\ncommand = "agentapi-mcp"\nargs = []\nenv = { %s = %s }\n',
}
KINDS = st.sampled_from(["none", "other", "ours", "link", "project"])


@contextmanager
def environment_of(home: Path, **variables: str) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "CODEX_HOME", "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "GEMINI_CLI_HOME"):
            patch.delenv(name, raising=False)
        for name, value in (variables | {"HOME": str(home)}).items():
            patch.setenv(name, value)
        yield


def run(options: ConnectOptions, *, undo: bool = False) -> str:
    """Run a command, and return all that it prints, or says as an error."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            asyncio.run((connecting.disconnect if undo else connecting.connect)(options))
        except AgentApiError as exc:
            printed.write(str(exc))
    return printed.getvalue()


def layout(client: str) -> str:
    return "toml" if client == "codex" else "json"


def key_of(client: McpClient) -> str:
    return client.format.show("x", {}).split('"')[1] if "{" in client.format.show("x", {}) else "mcp_servers"


def prepare(kind: str, client: McpClient, written: str, home: Path) -> Path:
    """Make the file of this kind that a command will find."""
    client.file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "project":
        path = home / "project" / "mcp"
        path.parent.mkdir()
        return path
    if kind == "none":
        return client.file
    path = home / "dotfile" if kind == "link" else client.file
    path.write_bytes(written.encode())
    path.chmod(0o644)
    if kind == "link":
        client.file.symlink_to(path)
    return path


def contents(home: Path) -> dict[Path, str]:
    return {path: path.read_bytes().decode() for path in home.rglob("*") if path.is_file() and not path.is_symlink()}


@settings(max_examples=150)
@given(st.sampled_from(NAMES), KINDS, VARIABLES, SECRETS)
def test_a_secret_is_in_nothing_that_is_written_or_printed(client: str, kind: str, variable: str, secret: str) -> None:
    with tempfile.TemporaryDirectory() as place, environment_of(Path(place), **{variable: secret}):
        home = Path(place)
        known = find_client(client, "linux", {"HOME": place})
        key, text = key_of(known), json.dumps("elsewhere-4711")
        form = layout(client)
        ours = OURS[form].replace('"env"', json.dumps(known.env_key)) % (key, variable, json.dumps(CANARY))
        written = ours if kind == "ours" else OTHER[form] % (key, text)
        path = prepare(kind, known, written, home)
        before = contents(home)
        options = ConnectOptions(
            client=client, env=(variable,), force=True, file=path if kind == "project" else None, dry_run=True
        )
        said = [run(options), run(replace(options, only_print=True))]
        assert contents(home) == before
        said.append(run(replace(options, dry_run=False)))
        after = contents(home)
        if known.copies_values and kind != "project":
            assert {each for each in after if CANARY in after[each]} == {path}
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        else:
            assert CANARY not in "".join(after.values())
            assert (variable in after.get(path, "")) is not known.copies_values
        said += [run(replace(options, dry_run=dry), undo=True) for dry in (True, False)]
        assert CANARY not in "".join(said)
        assert "elsewhere-4711" not in "".join(said)
        assert contents(home) == before or kind == "ours"
        assert "agentapi-mcp" not in "".join(contents(home).values())


@pytest.mark.parametrize("client", NAMES)
def test_the_server_is_started_with_what_its_entry_refers_to(client: str) -> None:
    known = find_client(client, "linux", {"HOME": "/"})
    entry = known.entry(["agentapi-mcp"], {"AGENTAPI_HOME": "/h"}, {"MY_KEY": "value"})
    expected = {"AGENTAPI_HOME": "/h", "MY_KEY": "value"}
    assert known.start_environment(entry, {"MY_KEY": "value", "OTHER": "x"}) == expected
    assert known.handed_on(entry) == expected.keys()
    assert ("value" in json.dumps(entry)) is known.copies_values


@pytest.mark.parametrize(
    ("client", "written", "started"),
    [
        ("claude-code", "${A}", "1"),
        ("claude-code", "${B:-2}-${A}", "2-1"),
        ("claude-code", "${B}", None),
        ("claude-code", "${env:A}", None),
        ("vscode", "x${env:A}", "x1"),
        ("vscode", "${input:A}", None),
        ("cursor", "${env:B}", None),
        ("cursor", "$A", "$A"),
        ("claude-desktop", "${A}", "${A}"),
        ("gemini", "$A", "1"),
        ("opencode", "{env:A}", "1"),
        ("windsurf", "${env:A}", "1"),
        ("zed", "{env:A}", "{env:A}"),
    ],
)
def test_each_client_resolves_its_own_references(client: str, written: str, started: str | None) -> None:
    known = find_client(client, "linux", {"HOME": "/"})
    found = known.start_environment({"env": {"X": written}}, {"A": "1"})
    assert found == ({} if started is None else {"X": started})


def test_codex_forwards_variables_and_keeps_those_that_were_forwarded() -> None:
    codex = find_client("codex", "linux", {"HOME": "/"})
    present: dict[str, object] = {"command": "agentapi-mcp", "env": {"KEY": "old"}, "env_vars": ["MINE"]}
    merged = codex.merge(present, codex.entry(["agentapi-mcp"], {}, {"KEY": "new"}))
    assert merged["env_vars"] == ["MINE", "KEY"]
    assert "env" not in merged
    assert codex.merge(merged, codex.entry(["agentapi-mcp"], {}, {}))["env_vars"] == ["MINE", "KEY"]


def test_a_value_is_copied_into_the_clients_own_file_alone(tmp_path: Path) -> None:
    with environment_of(tmp_path, OPENROUTER_API_KEY=CANARY):
        own = find_client("claude-desktop", "linux", {"HOME": str(tmp_path)}).file
        own.parent.mkdir(parents=True)
        options = ConnectOptions(client="claude-desktop", env=("OPENROUTER_API_KEY",), force=True)
        with pytest.raises(InvalidRequestError, match="its own file alone"):
            asyncio.run(connecting.connect(replace(options, file=tmp_path / ".mcp.json")))
        (tmp_path / ".git").mkdir()
        with pytest.raises(ConfigurationError, match="is in the repository"):
            asyncio.run(connecting.connect(options))
        assert contents(tmp_path) == {}
        asyncio.run(connecting.connect(replace(options, env=())))
        assert own.exists()


@pytest.mark.parametrize("client", NAMES)
def test_what_is_only_shown_needs_no_value(client: str, tmp_path: Path) -> None:
    options = ConnectOptions(client=client, env=("OPENROUTER_API_KEY",), force=True)
    with environment_of(tmp_path):
        for shown in (replace(options, only_print=True), replace(options, dry_run=True)):
            said = run(shown)
            assert "OPENROUTER_API_KEY" in said
            assert "is not set here" not in said
        assert "the variable OPENROUTER_API_KEY is not set here" in run(options)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("client", NAMES)
async def test_what_a_server_says_of_its_keys_when_it_fails_is_hidden(client: str) -> None:
    known = find_client(client, "linux", {"HOME": "/"})
    entry = known.entry([sys.executable, "-c", "import os; exit(f'{os.environ[chr(75)]} is bad')"], {}, {"K": CANARY})
    with pytest.raises(ConfigurationError, match="is bad") as caught:
        await try_server(known, entry, {"K": CANARY}, [CANARY])
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("name", ["A(B)", "A}B", "sk-or-0123", "1A", "", "A=b"])
def test_what_is_no_name_of_a_variable_is_refused_and_not_repeated(name: str, tmp_path: Path) -> None:
    options = ConnectOptions(client="cursor", env=(name,), force=True)
    given = {name: "x"} if name and "=" not in name else {}
    with environment_of(tmp_path, **given), pytest.raises(InvalidRequestError, match="alone") as caught:
        asyncio.run(connecting.connect(options))
    assert not name or name not in str(caught.value)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("undo", [False, True])
def test_a_secret_of_the_environment_is_hidden_wherever_a_file_has_it(tmp_path: Path, *, undo: bool) -> None:
    with environment_of(tmp_path, OPENROUTER_API_KEY=CANARY):
        path = tmp_path / "mcp.json"
        servers = {
            "agentapi": {"command": "agentapi-mcp", "args": ["serve"]},
            "files": {"command": "npx", "args": [CANARY]},
        }
        path.write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
        options = ConnectOptions(client="cursor", env=("OPENROUTER_API_KEY",), force=True, file=path, dry_run=True)
        said = run(options, undo=undo)
    assert "[hidden]" in said
    assert CANARY not in said


def test_a_secret_that_an_earlier_version_copied_is_told_and_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with environment_of(tmp_path):
        path = find_client("cursor", "linux", {"HOME": str(tmp_path)}).file
        path.parent.mkdir()
        path.write_text(OURS["json"] % ("mcpServers", "MY_API_KEY", json.dumps(CANARY)), encoding="utf-8")
        path.chmod(0o644)
        options = ConnectOptions(client="cursor", force=True)
        asyncio.run(connecting.connect(options))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "holds secrets that are no references: MY_API_KEY of agentapi." in capsys.readouterr().err
        path.chmod(0o644)
        asyncio.run(connecting.connect(options))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "only you can" in capsys.readouterr().err
        path.chmod(0o644)
        asyncio.run(connecting.connect(replace(options, name="two")))
        backup = path.with_name(f"{path.name}.agentapi-backup")
        assert [stat.S_IMODE(each.stat().st_mode) for each in (path, backup)] == [0o600, 0o600]


def test_secrets_of_other_servers_are_told_and_their_file_keeps_its_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with environment_of(tmp_path, OPENROUTER_API_KEY=CANARY):
        path = tmp_path / ".mcp.json"
        path.write_text(OTHER["json"] % ("mcpServers", json.dumps("real-value")), encoding="utf-8")
        path.chmod(0o644)
        asyncio.run(
            connecting.connect(ConnectOptions(client="claude-code", env=("OPENROUTER_API_KEY",), force=True, file=path))
        )
        said = capsys.readouterr().err
        assert "FILES_TOKEN of files. ${NAME} refers to a variable." in said
        assert "refers to OPENROUTER_API_KEY and holds no value" in said
        assert "real-value" not in said
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("OPENAI_API_KEY", "x", True),
        ("apiKey", "x", True),
        ("X-Api-Key", "x", True),
        ("--token", "x", True),
        ("primaryApiKey", "x", True),
        ("DB_PASSWORD", "x", True),
        ("DATABASE_URL", "postgresql://me:pw@host/db", True),
        ("DATABASE_URL", "postgresql://host/db", False),
        ("ANYTHING", "sk-or-v1-0123456789", True),
        ("Authorization", "Bearer abc", True),
        ("OPENAI_API_KEY", "${OPENAI_API_KEY}", False),
        ("OPENAI_API_KEY", "{env:OPENAI_API_KEY}", False),
        ("OPENAI_API_KEY", "$OPENAI_API_KEY", False),
        ("DB_PASSWORD", "$ecret", True),
        ("OPENAI_API_KEY", "", False),
        ("AGENTAPI_MASTER_KEY_FILE", "/etc/key", False),
        ("PATH", "/usr/bin", False),
        ("MONKEYS", "x", False),
        ("AGENTAPI_HOME", "/home/me", False),
    ],
)
def test_a_secret_is_known_by_its_name_or_its_form(name: str, value: str, *, expected: bool) -> None:
    assert is_secret(name, value) is expected


def test_secrets_are_found_wherever_a_file_has_them() -> None:
    document = {
        "primaryApiKey": "one",
        "servers": {
            "a": {"args": ["--api-key", "two", "-y", "plain"], "headers": {"X-Account": "three"}},
            "b": {
                "args": ["--token=four", "--port=80"],
                "env": {"A_SECRET": "five", "PLAIN": "other", "A_PATH": "/x", "B": "${A}"},
            },
            "c": {"url": "https://me:six@host/"},
        },
    }
    found = ["one", "two", "three", "four", "five", "other", "five", "https://me:six@host/"]
    assert [*secrets_in(document)] == found


@given(st.lists(st.text(min_size=4), min_size=1, max_size=4), st.text())
def test_what_is_hidden_is_nowhere_in_the_text(secrets: list[str], between: str) -> None:
    text = hide(between.join(json.dumps(secret) for secret in secrets), secrets)
    alone = [secret for secret in secrets if secret not in between.join('"[hidden]"' for _ in secrets)]
    assert [secret for secret in alone if secret in text] == []


def test_a_difference_shows_lines_and_says_so_where_only_secrets_differ() -> None:
    path = Path("/f")
    assert difference(path, None, "a\nKEY\n", ["KEY1"]).splitlines()[:2] == ["--- /dev/null", "+++ /f"]
    assert difference(path, "a\n", "a\nsecret\n", ["secret"]).splitlines()[-1] == "+[hidden]"
    assert "only hidden values" in difference(path, "secret1\n", "secret2\n", ["secret1", "secret2"])
