"""What it means that there is no reply, in words that name the cause and what to set."""

import errno
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from agentapi_mcp.base.errors import BackendError, BackendFault

MOST_FIELDS = 300  # headers of a reply
MOST_INTERIM, INTERIM = 100, "too many interim replies"  # such as 102 Processing, before the one that counts
LONGEST_FIELD = 100 * 1024  # bytes of a header of a reply

_OPERATORS = "The operator of this server sets it, and starts the server again."
_NO_TLS = "does not speak TLS as expected; if its port is one of plain HTTP, the URL begins with http://."
_UNRESOLVED = "has a host name that cannot be resolved."
_NO_ANSWER = "closed the connection without an answer."
_TWO_LENGTHS = (
    "gives its length twice, by Content-Length or beside Transfer-Encoding, which is refused (RFC 9112, section 6.3)."
)

_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_…
_OTHER_HOST = (62, 64)  # of a name, of an address
_CERTIFICATES = {
    _EXPIRED: ("has a certificate that has expired.", "Whoever runs that server has to renew it."),
    _NOT_YET: ("has a certificate that is not valid yet.", "Check the clock of this machine."),
    **dict.fromkeys(
        _OTHER_HOST,
        (
            "has a certificate of another host than the one in its URL.",
            "Set the agent's base URL to a name that its certificate has.",
        ),
    ),
}
_UNTRUSTED = "has a certificate of no authority that this server trusts."
_OF_THE_SYSTEM = {
    errno.ECONNREFUSED: "refused the connection.",
    errno.EHOSTUNREACH: "cannot be reached: there is no way to its host.",
    errno.ENETUNREACH: "cannot be reached: there is no way to its network.",
    errno.EMFILE: "was not asked: this server has too many files open.",
    errno.ENFILE: "was not asked: this machine has too many files open.",
}


@dataclass(frozen=True, slots=True)
class Route:
    """How a request went: by TLS or not, and through the proxy of which variable, if any."""

    is_secure: bool = False
    proxy: str | None = None

    @property
    def proxy_name(self) -> str:
        """How the proxy is called."""
        return f"The proxy of {self.proxy or 'the environment'}"


def fault_of(error: Exception, route: Route) -> BackendError:
    """Tell what it means that a request got no reply; every exception has a meaning."""
    name = _who(error, route)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return refused_by_proxy(error.status, route)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return BackendError(BackendFault.TIMEOUT_CONNECT, _too_late(route))
    if isinstance(error, aiohttp.InvalidURL):
        return BackendError(BackendFault.BAD_REQUEST, "The base URL is not a valid URL.").as_unbilled()
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return BackendError(BackendFault.BAD_REPLY, _unread(error.message, name))
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause, name)
    was_connected = not isinstance(error, aiohttp.ClientConnectorError)
    said = f"{name} {_reason(error)}"
    fault = BackendError(BackendFault.CONNECTION, said, next_step=_step(error, route))
    return fault if was_connected else fault.as_unbilled()


def refused_by_proxy(status: int, route: Route) -> BackendError:
    """Tell that the proxy answered instead of the provider."""
    wants_password = status == 407  # noqa: PLR2004  # Proxy Authentication Required
    if wants_password:
        what = "wants a user name and a password, or refuses those of its URL."
    else:
        what = f"refused to connect to the provider (HTTP {status})."
    step = f"Check the URL in {route.proxy}, or name the provider's host in NO_PROXY. {_OPERATORS}"
    retryable = False if wants_password else None
    return BackendError(
        BackendFault.CONNECTION, f"{route.proxy_name} {what}", retryable=retryable, next_step=step
    ).as_unbilled()


def unusable_proxy(scheme: str, source: str) -> BackendError:
    """Tell that a variable names a proxy that no agent can be asked through."""
    kind = "a SOCKS proxy" if scheme.startswith("socks") else "no URL of a proxy"
    step = f"Set {source} to the http:// URL of a proxy, or name the provider's host in NO_PROXY. {_OPERATORS}"
    what = f"The agent was not asked: {source} names {kind}, and only those that speak HTTP can be used."
    return BackendError(BackendFault.CONNECTION, what, retryable=False, next_step=step).as_unbilled()


def unusable_authorities(source: str) -> BackendError:
    """Tell that a variable or an option names no certificates."""
    what = f"The agent was not asked: {source} names no file of certificates that can be read."
    return BackendError(
        BackendFault.CONNECTION,
        what,
        retryable=False,
        next_step=f"Name a PEM file in {source}. {_OPERATORS}",
    ).as_unbilled()


def _who(error: Exception, route: Route) -> str:
    # Without TLS, the proxy is all that a request meets.
    is_proxys = isinstance(error, aiohttp.ClientProxyConnectionError) or not route.is_secure
    return route.proxy_name if route.proxy is not None and is_proxys else "The provider"


def _too_late(route: Route) -> str:
    if route.proxy is not None:
        return f"{route.proxy_name}, or the provider behind it, did not accept a connection in time."
    if route.is_secure:
        return (
            "The provider did not accept a connection with TLS in time; if its port is one of plain HTTP, the URL "
            "begins with http://."
        )
    return "The provider did not accept a connection in time."


def _unread(message: str, name: str) -> str:
    reply = f"The reply of {name[0].lower()}{name[1:]}"
    if "Content-Length" in message and ("Duplicate" in message or "present with" in message):
        return f"{reply} {_TWO_LENGTHS}"
    if "Too many headers" in message:
        return f"{reply} has more than {MOST_FIELDS} headers."
    if "Got more than" in message:
        return f"{reply} has a header of more than {LONGEST_FIELD:,} bytes."
    if "Content-Length" in message:
        return f"{reply} has a Content-Length that is no number."
    return _no_reply(message, name)


def _no_reply(message: str, name: str) -> str:
    if message == INTERIM:
        return f"{name} sent more than {MOST_INTERIM} interim replies, such as 102 Processing, and no other."
    if r"\x15\x03" in message:  # an alert of TLS
        return f"{name} speaks TLS at this port: its URL begins with https://."
    return f"{name} does not answer in HTTP/1.1."


def _of_certificate(cause: ssl.SSLCertVerificationError, name: str) -> BackendError:
    known = _CERTIFICATES.get(getattr(cause, "verify_code", 0))
    if known is not None:
        what, step = known
        return BackendError(BackendFault.CONNECTION, f"{name} {what}", retryable=False, next_step=step).as_unbilled()
    step = (
        "If it is that of your organisation, or of a proxy, name its PEM file as ca_file of the agent, or in "
        f"SSL_CERT_FILE for all; REQUESTS_CA_BUNDLE is not read here. {_OPERATORS}"
    )
    said = f"{name} {_UNTRUSTED}"
    return BackendError(BackendFault.CONNECTION, said, retryable=False, next_step=step).as_unbilled()


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionResetError):
        return _NO_ANSWER if error.ssl is True else _NO_TLS  # it was accepted before that
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return _NO_TLS
        if isinstance(cause, socket.gaierror | UnicodeError):
            return _UNRESOLVED
    if (code := _system_error(error)) is not None:
        return _OF_THE_SYSTEM[code]
    if isinstance(error, aiohttp.ClientConnectorError):
        return "could not be connected to."
    return _NO_ANSWER if isinstance(error, aiohttp.ClientError | OSError) else "could not be asked."


def _system_error(error: Exception) -> int | None:
    codes = (cause.errno for cause in _causes(error) if isinstance(cause, OSError))
    return next((code for code in codes if code in _OF_THE_SYSTEM), None)


def _step(error: Exception, route: Route) -> str | None:
    if route.proxy is not None and _who(error, route) == route.proxy_name:
        return f"Check {route.proxy} and that the proxy runs, or name the provider's host in NO_PROXY. {_OPERATORS}"
    if _system_error(error) == errno.ECONNREFUSED:
        return "Nothing listens at the agent's base URL: start its server, or correct the host and the port."
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError) and not route.is_secure:
        return "Try again; if it stays so, check the agent's base URL: a port that speaks TLS wants https://."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if not _passes_for_its_cause(cause):
            yield cause
        cause = _inner(cause) or cause.__cause__ or cause.__context__


def _passes_for_its_cause(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientConnectorCertificateError)


def _inner(error: BaseException) -> BaseException | None:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return error.certificate_error
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
