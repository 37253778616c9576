"""What the files for deployment promise, as far as it shows without a container engine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentapi_mcp.cli.main import main
from agentapi_mcp.settings import Settings
from tests.architecture.test_settings import ROOT, variable

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


def test_images_have_a_version() -> None:
    images = re.findall(r"^FROM (\S+)", CONTAINER, re.MULTILINE) + re.findall(r"image: (\S+)", COMPOSE)
    assert images
    for image in images:
        assert re.search(r":(?!latest)[\w.-]+$", image), image


def test_ports_are_published_on_loopback_only() -> None:
    published = re.findall(r'- "([\d.]*:?\d+:\d+)"', COMPOSE)
    assert published == ["127.0.0.1:8000:8000"]
    assert COMPOSE.count("ports:") == 1


def test_no_password_is_written_anywhere() -> None:
    for name in ("POSTGRES_OWNER_PASSWORD", "POSTGRES_APP_PASSWORD", "AGENTAPI_BEARER_TOKEN"):
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


def test_the_grace_of_each_stop_is_longer_than_the_programs_own() -> None:
    for found in (re.search(r"stop_grace_period: (\d+)s", COMPOSE), re.search(r"TimeoutStopSec=(\d+)", UNIT)):
        assert found is not None
        assert int(found[1]) > 20 + 5 + 5
