"""Real file systems that are small, full or read-only, for tests that run as root."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

NEEDS_MOUNTS = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")


@contextmanager
def mounted_on_itself(path: Path, *, read_only: bool = False) -> Generator[None]:
    """Mount a path on itself, so that it cannot be removed."""
    _mount("--bind", path, path)
    try:
        if read_only:
            _mount("-o", "remount,bind,ro", path)
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # noqa: S603, S607  # ours


@contextmanager
def small_disk(path: Path, size: int) -> Generator[Path]:
    """Mount an empty file system of some bytes."""
    path.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", path)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # noqa: S603, S607  # ours


def fill_up(folder: Path) -> Path:
    """Use all the space that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def _mount(*words: str | Path) -> None:
    ran = subprocess.run(["mount", *words], capture_output=True, check=False)  # noqa: S603, S607  # ours
    if ran.returncode:
        pytest.skip(f"cannot mount here: {ran.stderr.decode().strip()}")
