"""Run the MCP server over HTTP until a signal stops it."""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvicorn

from agentapi_mcp.app.build import catalogue_watch
from agentapi_mcp.app.mcp_options import Extensions, declare_extensions, mcp_options
from agentapi_mcp.app.services import AppOptions
from agentapi_mcp.app.startup import App, open_app
from agentapi_mcp.base.clock import SystemClock
from agentapi_mcp.base.concurrency import first_of
from agentapi_mcp.base.errors import AgentApiError, ConfigurationError, StoreUnavailableError, sentences
from agentapi_mcp.base.exceptions import notes_of
from agentapi_mcp.base.preparation import leave_out_what_stays
from agentapi_mcp.cli.http_protocol import HttpProtocol
from agentapi_mcp.cli.http_server import HttpServer
from agentapi_mcp.cli.terminal import print_err
from agentapi_mcp.core.catalogue.models import CatalogueFile
from agentapi_mcp.core.conversations.turns import Turns
from agentapi_mcp.core.services import ServicesProvider
from agentapi_mcp.edges.key_pages.pages import key_pages_mount
from agentapi_mcp.edges.mcp.server.server import EdgeServer, create_server
from agentapi_mcp.edges.mcp.transports.http import mcp_mount
from agentapi_mcp.environ import environment
from agentapi_mcp.settings import VERSION, Settings, for_serving, load_settings, with_tool_prefix, with_toolsets
from agentapi_mcp.telemetry import configure_logs
from agentapi_mcp.web.application import WebApplication, WebOptions, create_web
from agentapi_mcp.web.certificates import Certificate, open_certificate
from agentapi_mcp.web.forwarding import UnknownProxies
from agentapi_mcp.web.hosts import allowed_names
from agentapi_mcp.web.limits import HttpLimits
from agentapi_mcp.web.oauth import OAuth
from agentapi_mcp.web.reach import Reach, is_local
from agentapi_mcp.web.stopping import Stopping

_log = logging.getLogger(__name__)
_SHUTDOWN_SECONDS = 5  # for sending the last answers, once the turns have ended
_FOLLOW_UP = timedelta(milliseconds=500)
_LAST_ANSWERS = timedelta(seconds=2)  # of the time above, before what is not answered is refused
# Of TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before the kernel drops the connection.
_UNREAD_MILLISECONDS = 60_000
_MAX_DESCRIPTORS = 65_536
_WILDCARD_HOSTS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  # not a bind address: wildcards, which are no host names


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Options of the command `serve`."""

    host: str
    port: int
    insecure: bool
    needs_token: bool
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    toolsets: str | None = None
    tool_prefix: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


class Address(NamedTuple):
    """An IP address of this machine, and a port; 0 takes any free one."""

    family: socket.AddressFamily
    host: str
    port: int


def uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the event loop factory of uvloop, or None where it is not installed."""
    return import_module("uvloop").new_event_loop if find_spec("uvloop") else None


async def serve_http(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: a setting is wrong, or the address cannot be bound.
    """
    settings = with_tool_prefix(with_toolsets(load_settings(), options.toolsets), options.tool_prefix)
    settings = for_serving(settings)
    configure_logs(settings.log_level)
    web = _web_options(settings, options, None)
    allowed_names(web.hosts, web.origins)
    address = find_address(options.host, options.port)
    reach = _reach(settings, options, address)
    # Before it listens, and again whenever the file changes.
    reach.check(catalogue_watch(settings, environment(), SystemClock()).read().sign_in)
    certificate = open_certificate(options.tls_cert or settings.tls_cert, options.tls_key or settings.tls_key)
    _raise_descriptor_limit()
    with listen(address, options.host) as listener:
        await _serve(settings, options, listener, certificate, reach)


def _reach(settings: Settings, options: ServeOptions, address: Address) -> Reach:
    return Reach(
        address=address.host,
        hosts=(*settings.allowed_hosts, *options.hosts),
        origins=(*settings.allowed_origins, *options.origins),
        trusted_proxies=settings.trusted_proxies,
        resource_url=settings.resource_url,
        has_token=settings.bearer_token is not None,
        needs_token=options.needs_token or settings.require_token,
        insecure=options.insecure,
    )


def _raise_descriptor_limit() -> None:
    """Raise the limit of open files: each client and each call to a provider uses one."""
    if find_spec("resource") is None:  # not on Windows
        return
    resource = import_module("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_MAX_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def find_address(host: str, port: int) -> Address:
    """Look up the address to listen on.

    Raises:
        ConfigurationError: the host has none.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise ConfigurationError(f"{host} is no address of this machine; choose another with --host.") from None
    return Address(family, str(found[0]), port)


def listen(address: Address, name: str) -> socket.socket:
    """Bind the listening socket; `name` is what the operator calls its address.

    Raises:
        ConfigurationError: the port is in use or not permitted, or the address is not one of this machine.
    """
    try:
        listener = socket.create_server((address.host, address.port), family=address.family, backlog=2048)
    except OSError as exc:
        raise ConfigurationError(_explain_bind_error(exc, name, address.port)) from exc
    # asyncio does not set it on accepted connections of a given socket: with Nagle's algorithm, each answer would
    # wait up to 40 ms for a delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # drop a client that never reads its answers
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MILLISECONDS)
    return listener


def _explain_bind_error(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"Port {port} of {host} is in use: stop what uses it, or choose another with --port."
        case errno.EACCES:
            return f"This user may not listen on port {port}; choose one above 1023 with --port."
        case errno.EADDRNOTAVAIL:
            return f"{host} is no address of this machine; choose another with --host."
        case _:
            return f"It is not possible to listen on port {port} of {host} ({error.strerror})."


async def _serve(
    settings: Settings, options: ServeOptions, listener: socket.socket, certificate: Certificate | None, reach: Reach
) -> None:
    proxies, extensions = UnknownProxies(), Extensions()

    def check(file: CatalogueFile) -> None:
        reach.check(file.sign_in)
        declare_extensions(extensions, settings, file.sign_in)

    opening = AppOptions(is_replica=True, check=check, parts=[proxies.part()])
    async with open_app(settings, environment(), options=opening) as app:
        server = create_server(app.services_provider, mcp_options(settings, extensions))
        web = _create_web(app, server, settings, options, proxies)
        http = HttpServer(
            uvicorn.Config(
                web.app,
                http=HttpProtocol,  # named here: uvicorn would take the parser that happens to be installed
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # the application takes them from trusted proxies
                ws="none",
                ssl_context_factory=None if certificate is None else lambda _config, _default: certificate.context,
                timeout_keep_alive=75,  # longer than a load balancer keeps an idle connection
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, app, certificate)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_stop_on_signal(app, web, http))
            opening = group.create_task(_open_services(app, http))
            opening.add_done_callback(lambda _: _announce(settings, options, listener, http))
            await http.serve([listener])
            # It may still wait for a signal, when the server has stopped by itself.
            stopping.cancel()
        refused = opening.result()
        if refused is not None:
            raise refused


def _reload(app: App, certificate: Certificate | None) -> None:
    app.services_provider.reload()
    if certificate is not None:
        certificate.renew()


async def _open_services(app: App, http: HttpServer) -> AgentApiError | None:
    """Open the services at start, so that a wrong configuration ends the program instead of failing each request."""
    try:
        await app.services_provider.services()
    except StoreUnavailableError as exc:
        # Not fatal: the next request retries.
        _log.warning("database_unavailable", extra={"reason": sentences(str(exc), *notes_of(exc))})
    except AgentApiError as exc:
        http.should_exit = True
        return exc
    leave_out_what_stays()
    return None


async def _stop_on_signal(app: App, web: WebApplication, http: HttpServer) -> None:
    """Shut down on a signal; a second Ctrl-C ends the grace period of running turns.

    New requests are refused first, and the runner of turns closes last, so that it refuses no request that was let in.
    """
    loop, stop_requested = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_requested.set)
    await stop_requested.wait()
    _log.info("stopping")
    was_busy = bool(http.server_state.tasks)
    web.stop()
    await http.close_idle_connections()
    services = app.services_provider.find()
    if services is not None:
        await drain_turns(services.turns, web.stopping, app.settings.shutdown_grace_seconds or 0)
    # The callers of turns that ended just now still have to be answered.
    await first_of(web.stopping.wait_answered(), SystemClock().sleep(_LAST_ANSWERS))
    web.stopping.give_up()
    if was_busy:  # while it listens: the SDK's client has to list the tools before it returns its last answer
        await SystemClock().sleep(_FOLLOW_UP)
    http.should_exit = True


async def drain_turns(turns: Turns, stopping: Stopping, grace_seconds: float) -> None:
    """Let what was let in be answered, and end the turns that then run; both together have one grace period."""
    loop, is_over = asyncio.get_running_loop(), asyncio.Event()

    def end_grace() -> None:
        is_over.set()
        turns.stop_now()

    loop.add_signal_handler(signal.SIGINT, end_grace)
    timer = loop.call_later(grace_seconds, end_grace)
    await first_of(stopping.wait_answered(), is_over.wait())
    await turns.drain()
    timer.cancel()


def _create_web(
    app: App, server: EdgeServer, settings: Settings, options: ServeOptions, proxies: UnknownProxies
) -> WebApplication:
    services_provider = app.services_provider
    web = replace(_web_options(settings, options, services_provider), shares=app.shares, unknown_proxies=proxies)
    mounts = [mcp_mount(server, oauth=web.oauth, body_bytes=web.limits.body_bytes)]
    if settings.origin is not None:
        mounts.insert(0, key_pages_mount(services_provider, settings.origin))
    return create_web(services_provider, mounts, web)


def _web_options(settings: Settings, options: ServeOptions, services_provider: ServicesProvider | None) -> WebOptions:
    own = () if options.host in _WILDCARD_HOSTS else (f"[{options.host}]" if ":" in options.host else options.host,)
    return WebOptions(
        hosts=(*own, *settings.allowed_hosts, *options.hosts),
        origins=(*settings.allowed_origins, *options.origins),
        token=None if settings.bearer_token is None else settings.bearer_token.get_secret_value(),
        oauth=None
        if settings.resource_url is None or services_provider is None
        else OAuth(resource=settings.resource_url, services_provider=services_provider),
        needs_token=options.needs_token or settings.require_token,
        trusted_proxies=settings.trusted_proxies,
        serves_forwarded=options.insecure,
        limits=HttpLimits(body_bytes=settings.max_body_bytes),
    )


def client_base(settings: Settings, options: ServeOptions, listening: str) -> str:
    """Return the address that clients use, without a path, as far as it was said; else the one that it listens on."""
    if settings.origin is not None:
        return settings.origin
    names = (name.removesuffix(":*") for name in (*settings.allowed_hosts, *options.hosts))
    name = next((name for name in names if not is_local(name)), None)
    if name is None:
        return listening
    if settings.trusted_proxies:  # which speak TLS
        return f"https://{name}"
    if options.host not in _WILDCARD_HOSTS:
        return listening
    scheme, port = urlsplit(listening).scheme, urlsplit(listening).port
    return f"{scheme}://{name}" if urlsplit(f"//{name}").port else f"{scheme}://{name}:{port}"


def _announce(settings: Settings, options: ServeOptions, listener: socket.socket, http: HttpServer) -> None:
    if http.should_exit:
        return
    host = f"[{options.host}]" if ":" in options.host else options.host
    listening = f"http{'s' * http.config.is_ssl}://{host}:{listener.getsockname()[1]}"
    base = client_base(settings, options, listening)
    beside = "" if base == listening else f"; listening on {listening}"
    print_err(
        f"agentapi-mcp {VERSION} serves MCP at {settings.resource_url or f'{base}/mcp'} (old clients: {base}/sse"
        f"{beside}). Ctrl+C stops it."
    )
    if options.host in _WILDCARD_HOSTS and not (options.hosts or settings.allowed_hosts):
        print_err("Other machines are answered with 421 until --allowed-host says how they call this one.")
    if not (http.config.is_ssl or settings.trusted_proxies or is_local(listener.getsockname()[0])):
        print_err(
            "Tokens and messages can be read on their way: give --tls-cert and --tls-key, or name the proxy that "
            "speaks TLS in AGENTAPI_TRUSTED_PROXIES."
        )
