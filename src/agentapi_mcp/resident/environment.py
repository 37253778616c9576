"""What a bridge reads of its environment: the home, whether there may be a resident server, and which one.

Every client pays for what is imported here, so that is little: no pathlib (11 ms), no json, no re.
"""

import os
import sys
from _blake2 import blake2b
from collections.abc import Iterator, Mapping

import agentapi_mcp

Environ = Mapping[bytes, bytes]

PACKAGE = os.path.dirname(os.path.abspath(agentapi_mcp.__file__))
_ROOTS_HOME = b"/var/lib/agentapi-mcp"
_CONFIG = b"agentapi.toml"
_YES, _NO = {b"1", b"true", b"t", b"yes", b"y", b"on"}, {b"0", b"false", b"f", b"no", b"n", b"off"}
# What the libraries of the server read by themselves. Not: PATH, TERM, LANG, TMPDIR and the variables of a client or of
# its project, which differ from client to client and change nothing.
_PREFIXES = (b"AGENTAPI_", b"PG", b"OTEL_", b"GOOGLE_", b"CLOUDSDK_")
_NAMES = frozenset(
    (
        *(b"HOME", b"XDG_DATA_HOME", b"SSL_CERT_FILE", b"SSL_CERT_DIR", b"NETRC", b"LD_LIBRARY_PATH"),
        *(b"PYTHONPATH", b"PYTHONHOME", b"PYTHONUSERBASE", b"PYTHONNOUSERSITE"),
        *(name + b"_PROXY" for name in (b"HTTP", b"HTTPS", b"ALL", b"NO")),
    )
)
# What only a program that the server starts reads (backends/kinds/droid.py).
_OF_PROGRAMS = frozenset((b"PATH", b"LANG", b"LC_ALL", b"TMPDIR", b"NODE_EXTRA_CA_CERTS"))
_CERTIFICATES = frozenset((b"SSL_CERT_FILE", b"SSL_CERT_DIR"))
# What may be a relative path, which starts at the client's directory; the server runs in another.
_OUR_PATHS = frozenset((b"AGENTAPI_CONFIG", b"AGENTAPI_MASTER_KEY_FILE", b"AGENTAPI_POSTGRES_BINDIR"))
_PATHS = _CERTIFICATES | frozenset(
    (
        *(b"PGPASSFILE", b"PGSERVICEFILE", b"PGSYSCONFDIR", b"PGSSLCERT", b"PGSSLKEY", b"PGSSLROOTCERT", b"PGSSLCRL"),
        *(b"NETRC", b"GOOGLE_APPLICATION_CREDENTIALS", b"CLOUDSDK_CONFIG", b"OTEL_EXPORTER_OTLP_CERTIFICATE"),
    )
)
# They decide whether and how long there is a resident, and nothing of what its clients see.
_OURS = frozenset((b"AGENTAPI_RESIDENT", b"AGENTAPI_RESIDENT_LINGER_SECONDS", b"AGENTAPI_HOME"))
_ADDRESSES = (b"DATABASE_URL", b"REDIS_URL")
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
_CONTAINER_NAMES = (b"container", b"KUBERNETES_SERVICE_HOST")


class Environment:
    """The environment of one bridge; as the settings read it, the case of a name does not matter."""

    def __init__(self, environ: Environ) -> None:
        self.environ = {name: _absolute(name.upper(), value) for name, value in environ.items()}
        self._values = {name.upper(): value for name, value in self.environ.items() if value}

    def get(self, name: bytes) -> bytes:
        """Return the value of a variable, empty if it is not set."""
        return self._values.get(name, b"")

    @property
    def wish(self) -> bool | None:
        """Whether AGENTAPI_RESIDENT asks for a resident server or refuses one; None if it says neither."""
        word = self.get(b"AGENTAPI_RESIDENT").strip().lower()
        return True if word in _YES else False if word else None

    @property
    def is_wrong(self) -> bool:
        """Whether AGENTAPI_RESIDENT has a value that the settings refuse, in words."""
        return self.get(b"AGENTAPI_RESIDENT").strip().lower() not in {*_YES, *_NO, b""}

    def home(self) -> bytes:
        """Return the home as the server finds it (`Settings.home`, `default_home`); empty if it refuses the setting."""
        named = self.get(b"AGENTAPI_HOME")
        if named:
            home = os.path.expanduser(named)
            return os.path.realpath(home) if os.path.isabs(home) else b""
        if os.geteuid() == 0:
            return _ROOTS_HOME
        user_home = self.environ.get(b"HOME") or os.path.expanduser(b"~")
        if sys.platform == "darwin":
            return os.path.realpath(os.path.join(user_home, b"Library", b"Application Support", b"agentapi-mcp"))
        shared = self.environ.get(b"XDG_DATA_HOME", b"")
        place = shared if os.path.isabs(shared) else os.path.join(user_home, b".local", b"share")
        return os.path.realpath(os.path.join(place, b"agentapi-mcp"))

    def reason_against(self) -> str:
        """Say why the server runs in the client's own process; empty if a resident one may serve it."""
        if self.wish is not None:
            return "" if self.wish else "AGENTAPI_RESIDENT refuses it"
        if not sys.platform.startswith("linux"):
            return "elsewhere than on Linux, it is asked for by AGENTAPI_RESIDENT=1 alone"
        if self._is_in_a_container():
            return "it would end with this container, unless AGENTAPI_RESIDENT=1 asks for it"
        return ""

    def _is_in_a_container(self) -> bool:
        """Whether this process ends with what started it, as all processes of a container do."""
        if os.getpid() == 1 or any(self.environ.get(name) for name in _CONTAINER_NAMES):
            return True
        return any(os.path.exists(file) for file in _CONTAINER_FILES)

    def ignored_addresses(self) -> Iterator[str]:
        """Name the variables without our prefix that a server over stdio does not read, although they are set."""
        for name in _ADDRESSES:
            if self.get(name) and not self.get(b"AGENTAPI_" + name):
                yield name.decode()

    def for_resident(self, home: bytes) -> Environ:
        """Return the environment of the resident server.

        It has the variables that matter to it alone: nothing of the client that happened to come first, such as its
        tokens, and nothing that a later client would not expect. A command that prints the master key may need all.
        """
        names = self._names(home)
        kept = {name: value for name, value in self.environ.items() if value and _matters(name, names)}
        if self.get(b"AGENTAPI_MASTER_KEY_COMMAND"):
            kept = dict(self.environ)
        kept.setdefault(b"PATH", os.fsencode(os.defpath))
        kept[b"AGENTAPI_HOME"] = home
        return kept

    def fingerprint(self, home: bytes, key: bytes, toolsets: bytes) -> str:
        """Return what names the resident server of this environment.

        Of two bridges with the same, each could have started it. It covers secrets and stands in file names, so it
        depends on a `key` of the home.
        """
        digest = blake2b(key=key, digest_size=8)
        words = [*_program(), *_namespaces(), home, toolsets, self.get(b"AGENTAPI_CONFIG"), b"%d" % os.geteuid()]
        for name, value in sorted(self.counted(home).items()):
            words += (name, value)
        for word in words:
            digest.update(b"%d:%s," % (len(word), word))
        return digest.hexdigest()

    def counted(self, home: bytes) -> dict[bytes, bytes]:
        """Return the variables that tell a server from others of the same program and home."""
        names = self._names(home)
        return {
            name: os.path.realpath(value) if name in _CERTIFICATES else value
            for name, value in self.environ.items()
            if value and _matters(name, names) and name.upper() not in _OURS
        }

    def _names(self, home: bytes) -> frozenset[bytes]:
        """Return which variables matter, beside those with the prefixes."""
        own = _read(os.path.expanduser(self.get(b"AGENTAPI_CONFIG")) or os.path.join(home, _CONFIG))
        packaged = _read(os.path.join(os.fsencode(PACKAGE), b"defaults.toml"))
        names = {*_NAMES, *_named_in(own), *_named_in(packaged)}
        has_command = any(self.get(name) for name in names if name.endswith(b"_COMMAND"))
        if has_command or b"droid" in own or self.get(b"AGENTAPI_MASTER_KEY_COMMAND"):
            names |= _OF_PROGRAMS
        return frozenset(names)


def _matters(name: bytes, names: frozenset[bytes]) -> bool:
    return name in names or name.upper() in names or name.upper().startswith(_PREFIXES)


def _absolute(name: bytes, value: bytes) -> bytes:
    """Return the value of a variable, without what depends on the directory of this process."""
    # What a library takes for a path need not be one: `system`, of PGSSLROOTCERT.
    is_path = name in _OUR_PATHS or (name in _PATHS and os.path.exists(value))
    if not is_path or not value or value.startswith((b"/", b"~")):
        return value
    try:
        return os.path.abspath(value)
    except FileNotFoundError:  # the directory was removed
        return value


def _named_in(text: bytes) -> Iterator[bytes]:
    """Yield the names of the variables that a configuration file refers to, as `${NAME}` or `${NAME:-default}`."""
    for part in text.split(b"${")[1:]:
        name = part.split(b"}", 1)[0].split(b":", 1)[0]
        if name:
            yield name


def _program() -> Iterator[bytes]:
    """Yield what tells one installation from another, and from itself before an upgrade."""
    yield agentapi_mcp.__version__.encode()
    yield os.fsencode(sys.executable)
    yield os.fsencode(PACKAGE)
    yield b"%d" % _changed_at()


def _changed_at() -> int:
    """Return when the program was last changed, in nanoseconds: when it was installed, or the newest of its files."""
    installed = f"{PACKAGE}-{agentapi_mcp.__version__}.dist-info/RECORD"
    try:
        return os.stat(installed).st_mtime_ns
    except OSError:
        return _newest(PACKAGE)


def _newest(place: str) -> int:
    newest = 0
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    newest = max(newest, _newest(entry.path))
            else:
                newest = max(newest, entry.stat().st_mtime_ns)
    return newest


def _namespaces() -> Iterator[bytes]:
    """Yield what this process sees of the machine: its processes, files, network and users (namespaces(7))."""
    for kind in (b"pid", b"mnt", b"net", b"user"):
        try:
            yield os.readlink(b"/proc/self/ns/" + kind)
        except OSError:
            yield b""


def _read(path: bytes) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""
