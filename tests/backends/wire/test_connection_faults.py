"""Every exception of the HTTP library, of TLS and of the system has a meaning in words."""

import errno
import socket
import ssl
from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from agentapi_mcp.backends.wire.connection_faults import Route, fault_of, refused_by_proxy
from agentapi_mcp.base.errors import BackendFault

KEY = ConnectionKey("host", 1, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
INFO = aiohttp.RequestInfo(URL("http://s3cret@h/"), "GET", CIMultiDictProxy(CIMultiDict[str]()), URL("http://h/"))
REASON = OSError(errno.EIO, "s3cret")
ROUTES = [Route(), Route(is_secure=True), Route(proxy="ALL_PROXY"), Route(is_secure=True, proxy="ALL_PROXY")]
# How the classes are made that want more than a text.
MADE: dict[type[BaseException], tuple[object, ...]] = {
    aiohttp.ClientConnectorError: (KEY, REASON),
    aiohttp.ClientConnectorCertificateError: (KEY, ssl.SSLCertVerificationError(1, "s3cret")),
    client_exceptions.UnixClientConnectorError: ("/s3cret", KEY, REASON),
    aiohttp.ServerFingerprintMismatch: (b"s3cret", b"", "host", 1),
    aiohttp.ClientResponseError: (INFO, ()),
    UnicodeDecodeError: ("ascii", b"s3cret", 0, 1, "s3cret"),
    UnicodeEncodeError: ("ascii", "s3cret", 0, 1, "s3cret"),
    UnicodeTranslateError: ("s3cret", 0, 1, "s3cret"),
    http_exceptions.HttpProcessingError: (),
    http_exceptions.BadHttpMessage: ("s3cret",),
    http_exceptions.LineTooLong: (b"s3cret", 1),
    http_exceptions.InvalidHeader: (b"s3cret",),
}


def kinds_of(*roots: type[BaseException]) -> Iterator[type[BaseException]]:
    """List classes and all below them."""
    for root in roots:
        yield root
        yield from kinds_of(*root.__subclasses__())


def made(kind: type[BaseException]) -> Exception:
    """Make an exception of a class."""
    given = next((MADE[each] for each in kind.__mro__ if each in MADE), ("s3cret",))
    error = kind(*given)
    assert isinstance(error, Exception)
    return error


OURS = ("aiohttp.", "ssl", "socket", "builtins", "asyncio.")
ROOTS = (aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError, ValueError, RuntimeError)
KINDS = sorted(
    {kind for kind in kinds_of(*ROOTS) if kind.__module__.startswith(OURS) and issubclass(kind, Exception)},
    key=lambda kind: f"{kind.__module__}.{kind.__qualname__}",
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
@pytest.mark.parametrize("route", ROUTES, ids=["plain", "tls", "plain by proxy", "tls by proxy"])
def test_every_exception_has_a_meaning_without_its_text(kind: type[BaseException], route: Route) -> None:
    error = fault_of(made(kind), route)
    assert error.fault in {
        BackendFault.CONNECTION,
        BackendFault.TIMEOUT_CONNECT,
        BackendFault.BAD_REPLY,
        BackendFault.BAD_REQUEST,
    }
    assert str(error).endswith(".")
    assert len(str(error)) > 20
    assert error.next_step.endswith(".")
    assert "s3cret" not in f"{error} {error.next_step}"


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_error_of_the_system_has_a_meaning(code: int) -> None:
    error = aiohttp.ClientConnectorError(KEY, OSError(code, "s3cret"))
    assert str(fault_of(error, Route())).startswith("The provider ")
    assert str(fault_of(aiohttp.ClientProxyConnectionError(KEY, error.os_error), ROUTES[3])).startswith("The proxy of ")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (OSError(errno.ECONNREFUSED, ""), "refused the connection."),
        (OSError(errno.EHOSTUNREACH, ""), "cannot be reached: there is no way to its host."),
        (OSError(errno.EMFILE, ""), "was not asked: this server has too many files open."),
        (socket.gaierror(socket.EAI_NONAME, ""), "has a host name that cannot be resolved."),
        (OSError(errno.EACCES, ""), "could not be connected to."),
    ],
)
def test_the_cause_is_named(reason: OSError, said: str) -> None:
    assert str(fault_of(aiohttp.ClientConnectorError(KEY, reason), Route())) == f"The provider {said}"


def test_what_the_operator_has_to_mend_is_not_tried_again() -> None:
    for code in (10, 9, 62, 64, 18):  # OpenSSL's: expired, not valid yet, another host twice, self-signed
        cause = ssl.SSLCertVerificationError(1, "")
        cause.verify_code = code
        error = fault_of(aiohttp.ClientConnectorCertificateError(KEY, cause), Route(is_secure=True))
        assert (error.fault, error.may_retry) == (BackendFault.CONNECTION, False)
        assert "trying again" not in error.next_step
    assert not refused_by_proxy(407, ROUTES[3]).may_retry
    assert refused_by_proxy(503, ROUTES[3]).may_retry


def test_a_port_where_nothing_listens_is_told_as_that() -> None:
    error = fault_of(aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "")), Route())
    assert error.next_step.startswith("Nothing listens at the agent's base URL: start its server")
    assert "speaks TLS" in fault_of(aiohttp.ServerDisconnectedError(), Route()).next_step


def test_causes_that_go_in_a_circle_end() -> None:
    one, two = OSError("one"), OSError("two")
    one.__cause__, two.__cause__ = two, one
    assert fault_of(one, Route()).fault is BackendFault.CONNECTION


NEVER_SENT = (
    *(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, aiohttp.ClientHttpProxyError),
    ssl.SSLCertVerificationError,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_what_may_have_been_sent_may_have_been_billed(kind: type[BaseException]) -> None:
    assert fault_of(made(kind), ROUTES[3]).unbilled == issubclass(kind, NEVER_SENT)
