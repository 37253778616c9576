"""The files beside the database, which a restore writes before it and names after it."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from agentapi_mcp.app.restored_files import ConfigFile, KeysFile, check_new
from agentapi_mcp.base.errors import ConflictError, InvalidRequestError


def test_the_directory_of_the_configuration_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "agentapi.toml"
    config = ConfigFile(path, b"# mine\n")
    with ExitStack() as stack:
        config.stage(stack)
        assert not path.exists()
        config.publish()
    assert (config.written, config.kept, config.fault) == (path, None, None)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"# mine\n", 0o600)


def test_of_a_restore_that_failed_nothing_is_left(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ConfigFile(tmp_path / "one" / "agentapi.toml", b"# mine\n").stage(stack)
        KeysFile(tmp_path / "keys", "a:b").stage(stack)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "is_kept"), [(b"# mine\n", False), (b"# another\n", True)])
def test_a_configuration_file_that_is_there_stays(content: bytes, tmp_path: Path, *, is_kept: bool) -> None:
    path = tmp_path / "agentapi.toml"
    path.write_bytes(content)
    config = ConfigFile(path, b"# mine\n")
    with ExitStack() as stack:
        config.stage(stack)
        config.publish()
    assert (config.written, config.kept, path.read_bytes()) == (None, path if is_kept else None, content)


def test_what_came_meanwhile_stays_and_what_went_is_told(tmp_path: Path) -> None:
    came, went = tmp_path / "agentapi.toml", tmp_path / "folder" / "agentapi.toml"
    configs = [ConfigFile(came, b"# mine\n"), ConfigFile(went, b"# mine\n")]
    with ExitStack() as stack:
        for config in configs:
            config.stage(stack)
        came.write_bytes(b"# theirs\n")
        went.parent.rename(tmp_path / "elsewhere")
        for config in configs:
            config.publish()
    assert (configs[0].kept, came.read_bytes()) == (came, b"# theirs\n")
    assert configs[1].fault == f"{went} cannot be written (No such file or directory)"


def test_a_place_for_a_file_that_cannot_be_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(ConflictError, match="is there already"):
            check_new(tmp_path / name)
    for name in ("file/keys", "none/keys"):
        with pytest.raises(InvalidRequestError, match="cannot be written"):
            check_new(tmp_path / name)
    with ExitStack() as stack, pytest.raises(InvalidRequestError, match="set AGENTAPI_CONFIG to another place"):
        ConfigFile(tmp_path / "file" / "agentapi.toml", b"x").stage(stack)
