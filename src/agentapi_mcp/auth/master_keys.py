"""Master keys, read once at startup from a setting, a file or a command; never stored."""

import asyncio
import base64
import binascii
import hashlib
import os
import re
import shlex
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from secrets import token_bytes

from agentapi_mcp.base.errors import ConfigurationError

KEY_BYTES = 32
_MAX_BYTES = 64 * 1024
_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")
_URL_SAFE = str.maketrans("-_", "+/")
_REMEDY = "`agentapi-mcp secrets generate` makes one"


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A key that encrypts other keys; without an explicit id, `id` is derived from a hash of it."""

    id: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKeySource:
    """The configured source of the master keys: exactly one of three."""

    text: str | None = field(default=None, repr=False)
    file: Path | None = None
    command: str | None = None
    timeout: timedelta = timedelta(seconds=10)

    async def read(self) -> tuple[MasterKey, ...]:
        """Read the keys; the first one encrypts.

        Raises:
            ConfigurationError: two sources are set, or a key is invalid; the message never holds a part of it.
        """
        if sum(place is not None for place in (self.text, self.file, self.command)) > 1:
            raise ConfigurationError(
                "Set one of AGENTAPI_MASTER_KEY, AGENTAPI_MASTER_KEY_FILE and AGENTAPI_MASTER_KEY_COMMAND, not more."
            )
        if self.file is not None:
            return parse_keys(_read_file(self.file), "AGENTAPI_MASTER_KEY_FILE")
        if self.command is not None:
            return parse_keys(await _run_command(self.command, self.timeout), "AGENTAPI_MASTER_KEY_COMMAND")
        return parse_keys(self.text or "", "AGENTAPI_MASTER_KEY")


def new_master_key() -> str:
    """Generate a random key in the format of `parse_keys`."""
    return base64.b64encode(token_bytes(KEY_BYTES)).decode()


def parse_keys(text: str, variable: str) -> tuple[MasterKey, ...]:
    """Parse comma-separated keys of the form `BASE64` or `ID:BASE64`.

    Raises:
        ConfigurationError: a key is invalid; the message names the variable and the key's position.
    """
    written = [part.strip() for part in text.split(",")]
    keys = tuple(_key(part, f"{variable}: key {place} of {len(written)}") for place, part in enumerate(written, 1))
    _refuse_duplicate_ids((key.id for key in keys), variable)
    return keys


def written_keys(keys: Iterable[MasterKey]) -> str:
    """Write keys as `parse_keys` reads them, each with its id."""
    return ",".join(f"{key.id}:{base64.b64encode(key.value).decode()}" for key in keys)


def _key(written: str, where: str) -> MasterKey:
    name, colon, encoded = written.rpartition(":")
    if colon and not _ID.fullmatch(name):
        raise ConfigurationError(f"{where} has an id that is none: up to 32 letters, digits, '.', '_' and '-'.")
    value = b""
    with suppress(ValueError, binascii.Error):
        value = base64.b64decode(encoded.translate(_URL_SAFE), validate=True)
    if len(value) != KEY_BYTES:
        raise ConfigurationError(f"{where} is not {KEY_BYTES} bytes in base64; {_REMEDY}.")
    # The id is public, in each sealed value: the prefix makes it differ from other hashes of the key.
    return MasterKey(name or hashlib.sha256(b"agentapi master key\0" + value).hexdigest()[:8], value)


def _refuse_duplicate_ids(ids: Iterable[str], variable: str) -> None:
    seen = set[str]()
    for each in ids:
        if each in seen:
            raise ConfigurationError(f"{variable} names two keys alike; each needs an id of its own.")
        seen.add(each)


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8-sig").strip()
    except OSError as exc:
        raise ConfigurationError(
            f"AGENTAPI_MASTER_KEY_FILE names a file that cannot be read ({exc.strerror})."
        ) from exc
    except UnicodeDecodeError:
        # The chained exception would hold the file's content.
        raise ConfigurationError("AGENTAPI_MASTER_KEY_FILE names a file that is not text.") from None


async def _run_command(command: str, limit: timedelta) -> str:
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = []
    if not arguments:
        raise ConfigurationError("AGENTAPI_MASTER_KEY_COMMAND is no command: a program and its arguments, no shell.")
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # may contain secrets, which must not reach our log
            start_new_session=True,  # a process group of its own, so that its children can be killed too
        )
    except (OSError, ValueError) as exc:
        raise ConfigurationError("AGENTAPI_MASTER_KEY_COMMAND names a program that cannot be run.") from exc
    try:
        async with asyncio.timeout(limit.total_seconds()):
            output = await _read_output(process)
    except TimeoutError:
        raise ConfigurationError(
            f"AGENTAPI_MASTER_KEY_COMMAND did not end within {limit.total_seconds():g} s; nobody can answer it here."
        ) from None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # its children may still hold the pipe open
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode:
        raise ConfigurationError(
            f"AGENTAPI_MASTER_KEY_COMMAND failed (status {process.returncode}); run it by hand to see why."
        )
    return output.decode("ascii", "replace").strip()


async def _read_output(process: asyncio.subprocess.Process) -> bytes:
    """Read a command's output and wait for its exit; stop early if the output is too large."""
    output = b""
    while process.stdout is not None and (chunk := await process.stdout.read(_MAX_BYTES)):
        output += chunk
        if len(output) > _MAX_BYTES:
            return output
    await process.wait()
    return output
