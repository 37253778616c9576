"""The command with which a client starts this program: an installed script, since `uvx` makes each start slow."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentapi_mcp.base.errors import ConfigurationError
from agentapi_mcp.base.json_values import as_object, as_text, load_json
from agentapi_mcp.base.lazy import LazyModule

TYPE_CHECKING = False  # type checkers take it for true; it is slow to import, and needed for one kind of start
if TYPE_CHECKING:
    from importlib import metadata
else:
    metadata = LazyModule("importlib.metadata")

_NAME = "agentapi-mcp"


@dataclass(frozen=True, slots=True)
class StartCommand:
    """A command, and a line on it for the user, who may have started this program in another way."""

    words: tuple[str, ...]
    remark: str | None = None


def start_command(
    environ: Mapping[str, str], ask: Callable[[str], bool] | None, *, prefix: str = sys.prefix
) -> StartCommand:
    """Return a command that starts this program without our PATH: clients start servers with a minimal one.

    `prefix` is the environment of this program. Where `uvx` made that one, the script of `uv tool install` is taken; if
    there is none, `ask` is asked whether to make it, and without a yes the command is `uvx`.

    Raises:
        ConfigurationError: `uv tool install` failed.
    """
    # uvx environments vanish with uv's cache.
    if not any(part.startswith("archive-v") for part in Path(prefix).parts):
        return StartCommand(_own_command())
    uvx = shutil.which("uvx", path=environ.get("PATH"))
    if uvx is None:
        return StartCommand(_own_command())
    uv, source = environ.get("UV") or str(Path(uvx).with_name("uv")), _install_source()
    installing = [uv, "tool", "install", source or _NAME]
    script = _tool_script(uv, environ)
    if script is None and ask is not None and ask(f"uvx costs half a second of each start. {_shown(installing)} now?"):
        _install(installing, environ)
        script = _tool_script(uv, environ)
    if script is not None:
        return StartCommand(
            (str(script),), f"It starts {script}, made by uv tool install; `uv tool upgrade {_NAME}` renews it."
        )
    return StartCommand(
        (uvx, *(("--from", source) if source else ()), _NAME),
        f"It starts through uvx, which costs half a second each time: `{_shown(installing)}` once, then connect again.",
    )


def _own_command() -> tuple[str, ...]:
    """Return the installed script of this program, or else its interpreter with its module."""
    for script in (Path(sys.argv[0]), Path(sys.executable).with_name(_NAME)):
        if script.stem == _NAME and _is_program(script):
            return (str(script.absolute()),)
    return sys.executable, "-m", "agentapi_mcp"


def _is_program(path: Path) -> bool:
    return os.access(path, os.X_OK) and path.is_file()


def _install_source() -> str | None:
    """Return the directory or URL of an installation that did not come from a package index (PEP 610)."""
    try:
        direct_url = metadata.distribution(_NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    url = as_text(as_object(load_json(direct_url)).get("url")) if direct_url else None
    return url.removeprefix("file://") if url else None


def _shown(words: list[str]) -> str:
    return shlex.join(["uv", *words[1:]])


def _tool_script(uv: str, environ: Mapping[str, str]) -> Path | None:
    """Return the script of `uv tool install`, if there is one."""
    try:
        asked = subprocess.run(  # noqa: S603  # the user's own uv
            [uv, "tool", "dir", "--bin"], env=dict(environ), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    script = Path(asked.stdout.strip()) / _NAME
    return script if script.is_absolute() and _is_program(script) else None


def _install(words: list[str], environ: Mapping[str, str]) -> None:
    """Run `uv tool install`; what it says goes to the terminal."""
    try:
        done = subprocess.run(words, env=dict(environ), stdout=sys.stderr.fileno(), check=False)  # noqa: S603  # the same
    except OSError as exc:
        raise ConfigurationError(f"{words[0]} cannot be run ({exc.strerror}); nothing was written.") from exc
    if done.returncode != 0:
        raise ConfigurationError(f"`{_shown(words)}` failed, as said above; nothing was written.")
